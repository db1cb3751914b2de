"""A factor or shift inside a user's forward: ``x * self.gamma``, with a parameter or buffer of one value per channel.

`AffineForward` runs such a forward and lets an `InnerAffine` do that operation, so that the operation can be folded
into a layer like a module that scales channels (`read.affine_modules`).
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...nn.norm_chain import FactorStage, ShiftStage, Stage
from ...torch_private import without_function_modes
from .forwards import OriginalForward, Replacement

_KINDS: Mapping[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("mul", "multiply", "__mul__", "__rmul__"), operator.mul),
    **dict.fromkeys(("add", "__add__", "__radd__"), operator.add),
    **dict.fromkeys(("sub", "subtract", "__sub__"), operator.sub),
    **dict.fromkeys(("div", "divide", "true_divide", "__truediv__"), operator.truediv),
}
_VIEWS = frozenset(
    (
        "reshape",
        "view",
        "unsqueeze",
        "squeeze",
        "flatten",
        "__getitem__",
        "permute",
        "transpose",
        "movedim",
        "contiguous",
    )
)


@dataclasses.dataclass(frozen=True)
class Affine:
    """One operation in a forward, with a tensor of a module as one of its two operands.

    Attributes:
      function: The function of the module `operator` that does the same.
      holder: The module with the tensor.
      name: Its name there.
      shape: The shape that it has in the operation.
      is_first: Whether it is the first operand.
    """

    function: Callable[[Any, Any], Any]
    holder: nn.Module
    name: str
    shape: tuple[int, ...]
    is_first: bool


class InnerAffine(nn.Module):
    """One operation as a module, which has no state of its own.

    Attributes:
      affine: The operation.
    """

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        self.affine = affine

    def forward(self, x: Tensor) -> Tensor:
        """Computes the operation on ``x``."""
        value = self.values().reshape(self.affine.shape)
        result: Tensor = self.affine.function(value, x) if self.affine.is_first else self.affine.function(x, value)
        return result

    def values(self) -> Tensor:
        """Returns the tensor, one value or one per channel."""
        values: Tensor = getattr(self.affine.holder, self.affine.name)
        return values

    def stage(self, channels: int) -> Stage:
        """Returns the operation on data with ``channels`` as a member of a chain."""
        is_difference, is_first = self.affine.function is operator.sub, self.affine.is_first
        if self.affine.function in (operator.mul, operator.truediv):
            return FactorStage(self.values, is_quotient=self.affine.function is operator.truediv)
        return ShiftStage(self.values, channels, is_difference and not is_first, is_difference and is_first)


Take = Callable[[Affine, Tensor], Any]
NOT_TAKEN = object()


class AffineCalls(TorchFunctionMode):
    """While this mode is active, operations with tensors of some modules are passed to ``take(affine, data)``."""

    def __init__(self, tensors: Mapping[Tensor, tuple[nn.Module, str]], take: Take) -> None:
        """``tensors`` have their holder and name; ``take`` returns `NOT_TAKEN` to leave a call alone."""
        super().__init__()
        self._tensors = tensors
        self._take = take
        self._views: dict[int, tuple[Tensor, Tensor]] = {}  # by id: the view, which stays alive, and the tensor

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs ``func``."""
        name = getattr(func, "__name__", "")
        if len(args) == 2 and not kwargs and name in _KINDS:
            affine = self._affine(name, *args)
            result = NOT_TAKEN if affine is None else self._take(affine, args[0 if not affine.is_first else 1])
            if result is not NOT_TAKEN:
                return result
        origin = self._origin(args[0]) if args and name in _VIEWS else None
        if origin is None:
            return func(*args, **(kwargs or {}))
        with without_function_modes():  # real_quant would convert it to float64
            view = func(*args, **(kwargs or {}))
        if isinstance(view, Tensor) and view.numel() == origin.numel():
            self._views[id(view)] = view, origin
        return view

    def _origin(self, x: Any) -> Tensor | None:
        if not isinstance(x, Tensor):
            return None
        return x if x in self._tensors else self._views.get(id(x), (None, None))[1]

    def _affine(self, name: str, first: Any, second: Any) -> Affine | None:
        if not isinstance(first, Tensor) or not isinstance(second, Tensor):
            return None
        origins = self._origin(first), self._origin(second)
        if (origins[0] is None) == (origins[1] is None):
            return None
        is_first = origins[1] is None
        value = first if is_first else second
        origin = origins[0] if is_first else origins[1]
        assert origin is not None
        return Affine(_KINDS[name], *self._tensors[origin], tuple(value.shape), is_first)


class AffineForward(Replacement):
    """Runs the original forward, with operations replaced by modules.

    Attributes:
      inner: The modules.
    """

    def __init__(self, original: OriginalForward, inner: Sequence[InnerAffine]) -> None:
        super().__init__(original)
        self.inner = tuple(inner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the forward."""
        affines = [one.affine for one in self.inner]
        tensors = {getattr(affine.holder, affine.name): (affine.holder, affine.name) for affine in affines}
        with AffineCalls(tensors, self._take):
            return self.original(*args, **kwargs)

    def keep(self, folded: Collection[nn.Module]) -> None:
        """Leaves the operations that are not in ``folded`` to the original forward; restores that if none is."""
        self.inner = tuple(one for one in self.inner if one in folded)
        if not self.inner:
            self.original.restore()

    def _take(self, affine: Affine, x: Tensor) -> Any:
        inner = next((one for one in self.inner if one.affine == affine), None)
        return NOT_TAKEN if inner is None else inner(x)


def tensors_of(holders: Iterable[nn.Module]) -> dict[Tensor, tuple[nn.Module, str]]:
    """Returns the float parameters and buffers of ``holders`` themselves, with holder and name."""
    found: dict[Tensor, tuple[nn.Module, str]] = {}
    for module in holders:
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            if value is not None and torch.is_floating_point(value):
                found.setdefault(value, (module, name))
    return found
