"""A layer behind a padding of the user's forward: its input is quantized without the padded zeros (spec 8.3)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ...nn.padding import POOLS, Margins
from ...nn.weighted_call import CALLS, WeightedCall
from .forwards import LayerForward, Replacement

_CALLS = {call.function.__name__: call for call in CALLS}  # by the names of `ops.table`


class PaddedForward(Replacement):
    """Takes the zeros off that the user's forward has padded, and calls ``forward``, whose layer adds them again."""

    def __init__(self, forward: LayerForward, margins: Margins) -> None:
        """``margins`` are the zeros in the order of `nn.padding`."""
        super().__init__(forward.original)
        self._forward = forward
        self._margins = margins

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the layer."""
        call = self._forward.layer.call
        args, kwargs = call.substitute(args, kwargs, [self._cropped(x) for x in call.inputs(args, kwargs)])
        return self._forward(*args, **kwargs)

    def _cropped(self, x: Tensor) -> Tensor:
        for number in range(len(self._margins) // 2):
            begin, end = self._margins[2 * number : 2 * number + 2]
            x = x.narrow(-1 - number, begin, x.shape[-1 - number] - begin - end)
        return x


class _Own:
    """A parameter of a module, as a source for `WeightedCall`."""

    def __init__(self, module: nn.Module, name: str) -> None:
        self._module = module
        self._name = name

    def __call__(self) -> Tensor:
        """Returns the parameter."""
        value: Tensor = getattr(self._module, self._name)
        return value


def with_margins(module: Any, operation: str, margins: Margins) -> nn.Module:
    """Returns a module that computes the convolution or pooling ``module`` behind ``margins`` of zeros.

    ``operation`` is its name in `ops.table`. A convolution shares the parameters of ``module``.
    """
    if operation in POOLS:
        names = list(inspect.signature(_base(POOLS[operation])).parameters)
        made = POOLS[operation](margins, **{name: getattr(module, name) for name in names})
    elif isinstance(module, WeightedCall):
        made = type(module).of(module, module.weight_source, module.bias_source)
    else:
        weight: Any = _Own(module, "weight")
        bias: Any = None if module.bias is None else _Own(module, "bias")
        made = _CALLS[operation].of(module, weight, bias)
    vars(made)["margins"] = margins
    return made.train(module.training)


def _base(cls: type[nn.Module]) -> Callable[..., Any]:
    """Returns the pooling class of torch."""
    return next(base for base in cls.__mro__ if base.__module__.startswith("torch.nn."))
