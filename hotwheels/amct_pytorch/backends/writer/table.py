"""The table of handlers: which function writes the ONNX nodes of which call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from ..calls.function_names import name_of

if TYPE_CHECKING:
    from .call import Call

# Result of a handler: the value of the result, the values of several tensors in order, or REFUSED if the handler does
# not cover the call.
Written = ir.Value | Sequence[ir.Value] | None
Handler = Callable[..., Written]
REFUSED = None

_HANDLERS: dict[str, tuple[Handler, inspect.Signature]] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Makes the decorated function the handler of the torch functions ``names``.

    ``add`` means ``torch.add``, ``Tensor.add`` and ``Tensor.add_``; ``F.relu`` a function of torch.nn.functional, also
    ``F.relu_``; ``pico_ops.Gelu`` an operator of ``torch.ops``. The handler takes a `Call` and then the arguments of
    the function, with the same names.
    """

    def decorate(handler: Handler) -> Handler:
        for name in names:
            assert name not in _HANDLERS, f"two handlers of {name}"
            _HANDLERS[name] = (handler, inspect.signature(handler))
        return handler

    return decorate


def write_by_table(call: Call) -> Written:
    """Writes ``call`` with its handler; REFUSED if there is none, or the handler does not cover the call."""
    found = _HANDLERS.get(name_of(call.function))
    if found is None:
        return REFUSED
    handler, signature = found
    kwargs = {name: value for name, value in call.kwargs.items() if name != "out" or value is not None}
    try:
        signature.bind(call, *call.args, **kwargs)
    except TypeError:  # an argument that the handler does not have, such as ``out``
        return REFUSED
    return handler(call, *call.args, **kwargs)
