"""The table of handlers: which function writes the ONNX nodes of which call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from torch.overrides import resolve_name

from .....torch_private import is_kernel

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


@functools.lru_cache(maxsize=1024)  # torch's look-up of a name changes the filters of warnings each time
def name_of(function: Callable[..., Any]) -> str:
    """Returns the name of ``function`` in the table; in-place forms have the name of the out-of-place form."""
    path = resolve_name(function) or _own_path(function)
    home, _, name = path.rpartition(".")
    if name == "__get__":
        home, _, name = home.rpartition(".")
    if name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    if home in ("torch.nn.functional", "torch._C._nn"):
        return f"F.{name}"
    if home in _PLAIN_HOMES:
        return _IN_PLACE_OPERATORS.get(name, name)
    return f"{home.removeprefix('torch.')}.{name}" if home else name


def _own_path(function: Callable[..., Any]) -> str:
    """Returns the path of a function that the table cannot find by identity: kernels of torch, ``torch.ops``."""
    name = str(getattr(function, "__qualname__", function))
    return f"torch._C._nn.{name}" if is_kernel(name, function) else name


_PLAIN_HOMES = frozenset({"torch", "torch.Tensor", "torch.functional", "torch._C._VariableFunctions"})
_IN_PLACE_OPERATORS = {
    "__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "true_divide", "__idiv__": "true_divide",
    "__ifloordiv__": "__floordiv__", "__ipow__": "__pow__", "__imod__": "remainder",
}  # fmt: skip
