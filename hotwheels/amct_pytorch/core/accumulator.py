"""Deferred: float64 values computed on first use; Accumulator: the float64 values of exact integers.

The consumer of most values rounds them to a grid, piece by piece, so that each piece is still in the CPU cache. The
whole float64 tensor, eight times as large as the integers on the chip, is then never made.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from types import EllipsisType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..torch_private import pytree, without_tensor_subclasses

# A slice of axis 0; or slices of the axes 0, 1 and 2 (rows of images); or `...` for the whole tensor.
Piece: TypeAlias = "slice | tuple[slice, slice, slice] | EllipsisType"
_LARGE = 1 << 18  # elements: smaller tensors are not cut
_PIECE = 1 << 18  # elements: two megabytes of float64
_NOTHING = torch.zeros(())

# Functions that need only the metadata, so the values are not computed for them.
_METADATA = frozenset(
    {Tensor.dim, Tensor.size, Tensor.numel, Tensor.is_floating_point, torch.is_floating_point, Tensor.__len__}
    | {getattr(Tensor, name).__get__ for name in ("shape", "device", "_version")}
    | {Tensor.is_inference}
)


Term: TypeAlias = "tuple[Tensor, Tensor]"  # integers, float32 or float64, and the float64 step of each of them


@dataclasses.dataclass(frozen=True)
class Sum:
    """The values ``integers * step`` of one term, plus ``bias``, or the sum of two float32 terms with scalar steps.

    Attributes:
      terms: The one term or the two.
      bias: Added to a single term, float64; broadcasts like its step. None adds nothing.
      ends: The sum is clamped to these in the end.
    """

    terms: tuple[Term, ...]
    bias: Tensor | None = None
    ends: tuple[float, float] = (-math.inf, math.inf)

    def clamped(self, ends: tuple[float, float]) -> Sum:
        """Returns these values clamped once more; both intervals contain 0."""
        return dataclasses.replace(self, ends=(max(self.ends[0], ends[0]), min(self.ends[1], ends[1])))


@dataclasses.dataclass(frozen=True)
class Factors:
    """The values ``(a * step_a) * (b * step_b)`` of two terms with scalar steps; ``b`` broadcasts against ``a``."""

    terms: tuple[Term, Term]


@dataclasses.dataclass(frozen=True)
class Table:
    """The values ``values[integers - first]``: a function of each integer; ``values`` is float64.

    ``integers`` are float32; or uint8 and dense, with ``first`` 0 and 256 values.
    """

    integers: Tensor
    first: int
    values: Tensor

    def part(self, at: Piece) -> Tensor:
        """Returns the values of one piece."""
        return self.values[(self.integers[at] - self.first).long()]


@dataclasses.dataclass(frozen=True)
class Joined:
    """The values ``integers * step`` of several terms with scalar steps, one behind another along ``axis``."""

    terms: tuple[Term, ...]
    axis: int

    def part(self, at: Piece) -> Tensor:
        """Returns the values of one piece."""
        return torch.cat([_in_steps(*term) for term in self.terms], self.axis)[at]


Form: TypeAlias = "Sum | Factors | Table | Joined"


class Deferred(Tensor):
    """A float64 tensor whose values are computed when an operation needs them: every operation gets ``whole()``.

    Attributes:
      carrier: A tensor of the same shape, which answers for shape and device.
      part: Returns the float64 values of one piece.
      form: What the values are, for consumers that compute them in one pass; None if ``part`` alone tells.
      may_be_nan: Whether a value can be NaN at all.
    """

    carrier: Tensor
    part: Callable[[Piece], Tensor]
    form: Form | None = None
    may_be_nan: bool = True

    @staticmethod
    def by(carrier: Tensor, part: Callable[[Piece], Tensor], form: Form | None = None) -> Deferred:
        """Returns a Deferred of the shape of ``carrier``, which has at least one axis; no value is computed."""
        made = carrier.as_subclass(Deferred)
        made.carrier, made.part, made.form = carrier, part, form
        return made

    @staticmethod
    def of_shape(shape: torch.Size, part: Callable[[Piece], Tensor], form: Form) -> Deferred:
        """Returns a Deferred of this shape on the CPU whose ``form`` holds no float tensor of that shape."""
        return Deferred.by(_NOTHING.expand(shape), part, form)

    # What a real_quant forward asks most, without a detour by `__torch_function__`.

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        """That of the carrier."""
        return self.carrier.shape

    def is_floating_point(self) -> bool:
        """True."""
        return True

    def dim(self) -> int:
        """That of the carrier."""
        return self.carrier.dim()

    def numel(self) -> int:
        """That of the carrier."""
        return self.carrier.numel()

    def whole(self) -> Tensor:
        """Returns all values, a plain float64 tensor, contiguous: kernels are free to choose another layout."""
        return self.part(...).contiguous()

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs ``func`` with plain tensors in place of deferred ones."""
        if func in _METADATA:
            with without_tensor_subclasses():
                return func(*args, **(kwargs or {}))
        args, kwargs = pytree.tree_map(_real, (args, kwargs or {}))
        return func(*args, **kwargs)


class Accumulator(Deferred):
    """The exact result of a CUBE operation; its values are ``integers * step`` (spec 10.4).

    Only a quantized consumer uses the integers: it rounds them once to its own grid (spec 10.3).

    Attributes:
      integers: Exact sums, float64, or float32 where they are below 2^24.
      step: Real units per integer, float64; broadcasts against ``integers`` and has no batch axis.
    """

    integers: Tensor
    step: Tensor

    may_be_nan = False

    @staticmethod
    def of(integers: Tensor, step: Tensor) -> Accumulator:
        """Returns the Accumulator of ``integers * step``; the product is not computed."""
        made = integers.as_subclass(Accumulator)
        made.carrier, made.integers, made.step, made.form = integers, integers, step, Sum(((integers, step),))
        made.part = lambda at: _in_steps(integers[at], rows_of(step, at))
        return made


def pieces_of(x: Tensor) -> Iterator[Piece]:
    """Yields the pieces to cut ``x`` into, each so small that it stays in the cache during several passes."""
    if x.numel() <= _LARGE:
        yield ...
        return
    size = x.numel() // len(x)
    if x.dim() != 4 or size <= _PIECE:
        count = max(1, _PIECE // size)
        yield from (slice(at, at + count) for at in range(0, len(x), count))
        return
    count = max(1, _PIECE * x.shape[2] // size)
    for at in range(len(x)):
        for row in range(0, x.shape[2], count):
            yield slice(at, at + 1), slice(None), slice(row, row + count)


def rows_of(step: Tensor, at: Piece) -> Tensor:
    """Returns the part of ``step``, which has no batch axis, that belongs to the piece ``at`` of an accumulator."""
    if not isinstance(at, tuple) or step.dim() < 2 or step.shape[-2] == 1:
        return step
    return step[..., at[2], :]


def _in_steps(integers: Tensor, step: Tensor) -> Tensor:
    """Returns ``integers.double() * step`` in memory of its own."""
    return integers * step if integers.dtype is torch.float64 else integers.double().mul_(step)


def _real(leaf: Any) -> Any:
    return leaf.whole() if isinstance(leaf, Deferred) else leaf
