"""Accumulator: the exact result of a CUBE operation, which turns into real numbers where somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

# What may be asked without computing the real numbers.
_METADATA = frozenset(
    {Tensor.dim, Tensor.size, Tensor.numel, Tensor.is_floating_point, Tensor.shape.__get__, Tensor.device.__get__}
)


class Accumulator(Tensor):
    """Integers and their step. Any operation on it works on ``integers * step``, a plain float64 tensor (SPEC 10.4).

    Only a quantized consumer looks at the integers, and rounds them once (SPEC 10.3).

    Attributes:
      integers: Exact sums, float64, or float32 where they are below 2^24.
      step: Real units per integer, float64; broadcasts against ``integers``.
    """

    integers: Tensor
    step: Tensor

    @staticmethod
    def of(integers: Tensor, step: Tensor) -> Accumulator:
        """Makes one; nothing is computed."""
        made = integers.as_subclass(Accumulator)
        made.integers, made.step = integers, step
        return made

    def real(self) -> Tensor:
        """Returns ``integers * step`` in float64."""
        return self.integers.double().mul_(self.step) if self.integers.dtype != torch.float64 else self.integers * self.step

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Puts the real numbers in the place of every accumulator."""
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        args, kwargs = pytree.tree_map(_real, (args, kwargs or {}))
        return func(*args, **kwargs)


def _real(leaf: Any) -> Any:
    return leaf.real() if isinstance(leaf, Accumulator) else leaf
