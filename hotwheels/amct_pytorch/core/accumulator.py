"""Deferred: float64 values which are computed where somebody asks for them; Accumulator: those of exact integers.

The consumer of most values rounds them to a grid. It does so image by image, and finds every image in the cache; the
float64 tensor as a whole, eight times as large as the integers on the chip, is never made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

# What may be asked without computing the values.
_METADATA = frozenset(
    {Tensor.dim, Tensor.size, Tensor.numel, Tensor.is_floating_point, torch.is_floating_point, Tensor.__len__}
    | {getattr(Tensor, name).__get__ for name in ("shape", "device", "_version")}
    | {Tensor.is_inference}
)


class Deferred(Tensor):
    """A float64 tensor to be. Any operation on it works on the plain tensor ``whole()``.

    Attributes:
      carrier: A tensor of the same shape, for which this one stands as long as only its shape is asked for.
      part: Returns the float64 values at the given indices of axis 0.
    """

    carrier: Tensor
    part: Callable[[slice], Tensor]

    @staticmethod
    def by(carrier: Tensor, part: Callable[[slice], Tensor]) -> Deferred:
        """Makes one; nothing is computed. ``carrier`` has at least one axis."""
        made = carrier.as_subclass(Deferred)
        made.carrier, made.part = carrier, part
        return made

    def whole(self) -> Tensor:
        """Returns all values, a plain float64 tensor."""
        return self.part(slice(None))

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Puts the values in the place of what is deferred."""
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        args, kwargs = pytree.tree_map(_real, (args, kwargs or {}))
        return func(*args, **kwargs)


class Accumulator(Deferred):
    """The exact result of a CUBE operation; its values are ``integers * step`` (SPEC 10.4).

    Only a quantized consumer looks at the integers, and rounds them once (SPEC 10.3).

    Attributes:
      integers: Exact sums, float64, or float32 where they are below 2^24.
      step: Real units per integer, float64; broadcasts against ``integers`` and has no batch axis.
    """

    integers: Tensor
    step: Tensor

    @staticmethod
    def of(integers: Tensor, step: Tensor) -> Accumulator:
        """Makes one; nothing is computed."""
        made = integers.as_subclass(Accumulator)
        made.carrier, made.integers, made.step = integers, integers, step
        made.part = lambda at: integers[at].double() * step
        return made


def _real(leaf: Any) -> Any:
    return leaf.whole() if isinstance(leaf, Deferred) else leaf
