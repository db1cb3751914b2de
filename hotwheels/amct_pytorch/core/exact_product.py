"""Products of integers in floating point, exact by proof.

A float type with p bits of mantissa adds and multiplies integers exactly as long as no partial sum exceeds 2^p. With x
in [low, high], low <= 0 <= high, a partial sum of ``sum w * x`` is the sum of some of its terms, in whatever order and
grouping a kernel adds them, with or without fused multiply-add. So its magnitude is at most

    max(high * P + |low| * N, high * N + |low| * P),    P = sum of the positive w, N = sum of the negated negative w.

Where that is 2^24 or more, the reduction is cut into parts which are exact in float32 and added in float64; numbers of
more than 9 bits are cut into bytes first, ``x = 256 * upper + lower``. What remains is computed in float64, where a sum
of 16 x 8 bit products would need 2^30 terms to exceed 2^53. None of this is true for TF32 or bfloat16, nor for
convolution algorithms of GPUs: there float64 is taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from . import native

FLOAT32_EXACT = 2**24
_BYTE = 256
_NARROW = 512  # 8-bit data with the offset subtracted needs at most one bit more: 9 bits
_MOST_PARTS = 4  # with more parts, the passes over the output cost more than a float64 product


@dataclasses.dataclass(frozen=True)
class Range:
    """The smallest and largest integer that a tensor can hold: ``low <= 0 <= high``."""

    low: int
    high: int

    @property
    def is_narrow(self) -> bool:
        """Whether the integers are multiplied as they are; wider ones are split into two bytes first."""
        return self.high - self.low < _NARROW

    def bound(self, weight: Tensor) -> float:
        """Returns the largest magnitude of a partial sum (formula above), any row of ``weight`` [outputs, terms]."""
        return self.bound_of(row_sums(weight))

    def bound_of(self, sums_of_weight: RowSums) -> float:
        """Returns the `bound` of a weight with these sums."""
        positive, negative = sums_of_weight
        sums = torch.maximum(self.high * positive - self.low * negative, self.high * negative - self.low * positive)
        return float(sums.max()) if sums.numel() else 0.0


RowSums = tuple[Tensor, Tensor]


def row_sums(weight: Tensor) -> RowSums:
    """Returns the sums of the positive and of the negated negative elements of each row, float64 [outputs]."""
    if weight.dtype is torch.int8 and weight.is_contiguous() and weight.numel() and native.has_integer_kernels():
        positive, negative = native.row_sums(weight)
        return positive.double(), negative.double()
    weight = weight.float()
    # Integers of 8 bits: exact in float32 up to 131,072 terms.
    kind = torch.float32 if weight.shape[1] * _BYTE // 2 < FLOAT32_EXACT else torch.float64
    total, magnitude = (sums.double() for sums in (weight.sum(1, dtype=kind), weight.abs().sum(1, dtype=kind)))
    return (magnitude + total) / 2, (magnitude - total) / 2


Product = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
# (limits of x, sums of the weight, largest bias) -> the product by kernels that are exact for these and faster, or None
Faster = Callable[[Range, RowSums, float], "Product | None"]


def weighted_product(
    product: Product,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    limits: Range,
    axis: int,
    groups: int,
    sums: RowSums | None = None,
    faster: Faster | None = None,
) -> tuple[Tensor, float]:
    """Returns ``product(x, weight, bias)`` exactly, and the largest magnitude that it can have with any ``x``.

    Float32 where that is below 2^24, else float64.

    Args:
      product: A function linear in ``x`` and in ``weight``, with zero padding, that adds ``bias`` unless it is None.
      x: Integers in ``limits``, float32; its channels are at ``axis``.
      weight: Integers, output channels first, int8 or float32: [C_out, C_in / groups, ...].
      bias: Integers, float64 [C_out], or None.
      limits: Smallest and largest integer that ``x`` can hold.
      axis: Axis of the channels in ``x`` and in the result.
      groups: Groups of the convolution; with more than 1 the sums are short and not cut.
      sums: ``row_sums(weight.flatten(1))`` if they are known already.
      faster: Finds other kernels for products that are exact in float32.
    """
    sums = row_sums(weight.flatten(1)) if sums is None else sums
    largest = float(bias.abs().max()) if bias is not None and bias.numel() else 0.0
    bound = limits.bound_of(sums) + largest
    if not float32_is_exact(x.device):
        return product(x.double(), weight.double(), bias), bound
    if x.dim() == 4 and axis == -3:  # in this layout the kernels of CPUs need no copy of their own
        x = x.contiguous(memory_format=torch.channels_last)
    ways = _Ways(product, faster, axis, groups)
    if bound < FLOAT32_EXACT:
        return ways.single(x, weight, None if bias is None else bias.float(), limits, sums, largest), bound
    found = ways.wide(x, weight, limits)
    return (found if bias is None else found.add_(bias.reshape(-1, *[1] * (-axis - 1)))), bound


@dataclasses.dataclass(frozen=True)
class _Ways:
    """The ways to compute one product; arguments are those of `weighted_product`."""

    product: Product
    faster: Faster | None
    axis: int
    groups: int

    def single(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, limits: Range, sums: RowSums, largest: float = 0.0
    ) -> Tensor:
        """Returns a product that is exact in float32."""
        other = None if self.faster is None else self.faster(limits, sums, largest)
        return self.product(x, weight.float(), bias) if other is None else other(x, weight.to(torch.int8), bias)

    def wide(self, x: Tensor, weight: Tensor, limits: Range) -> Tensor:
        """Returns the product in float64, without the bias."""
        if limits.is_narrow:
            return self._in_parts(x, weight, limits).double()
        upper, lower = _bytes(x)
        above = self._in_parts(upper, weight, Range(limits.low // _BYTE, limits.high // _BYTE)).double()
        return above.mul_(_BYTE).add_(self._in_parts(lower, weight, Range(0, _BYTE - 1)))

    def _in_parts(self, x: Tensor, weight: Tensor, limits: Range) -> Tensor:
        parts = _parts(weight, limits, self.groups)
        if not parts:
            return self.product(x.double(), weight.double(), None)
        if len(parts) == 1:
            return self.single(x, weight, None, limits, parts[0][2])
        total: Tensor | None = None
        for start, size, sums in parts:
            cut = x.narrow(self.axis, start, size), weight.narrow(1, start, size)
            part = self.single(*cut, None, limits, sums)
            total = part.double() if total is None else total.add_(part)
        assert total is not None
        return total


def _parts(weight: Tensor, limits: Range, groups: int) -> list[tuple[int, int, RowSums]]:
    """Returns the fewest equal cuts of the input channels with sums exact in float32; [] if there are too many.

    Each cut is (start, size, sums of the weight).
    """
    channels = weight.shape[1]
    for count in range(1, (_MOST_PARTS if groups == 1 else 1) + 1):
        size = -(-channels // count)
        starts = range(0, channels, max(size, 1))
        cuts = [(start, min(size, channels - start)) for start in starts]
        found = [(*cut, row_sums(weight.narrow(1, *cut).flatten(1))) for cut in cuts]
        if all(limits.bound_of(sums) < FLOAT32_EXACT for *_, sums in found):
            return found
    return []


def matrix_product(left: Tensor, right: Tensor, left_limits: Range, right_limits: Range) -> Tensor:
    """Returns the exact product of two float32 tensors of integers; float32 where it is known to be below 2^24."""
    largest = max(-right_limits.low, right_limits.high) * left.shape[-1]
    if not float32_is_exact(left.device):
        return torch.matmul(left.double(), right.double())
    if _largest(left_limits) * largest < FLOAT32_EXACT:
        return torch.matmul(left, right)
    if left_limits.is_narrow or (_BYTE - 1) * largest >= FLOAT32_EXACT:
        return torch.matmul(left.double(), right.double())
    upper, lower = _bytes(left)
    return torch.matmul(upper, right).double().mul_(_BYTE).add_(torch.matmul(lower, right))


def _bytes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (upper, lower) with ``x = 256 * upper + lower`` and lower in [0, 255]; exact, powers of two."""
    upper = (x * (1.0 / _BYTE)).floor_()
    return upper, torch.add(x, upper, alpha=-_BYTE)


def _largest(limits: Range) -> int:
    return max(-limits.low, limits.high)


def float32_is_exact(device: torch.device) -> bool:
    """Whether the kernels of ``device`` add exact products: IEEE float32, no TF32, no FFT and no Winograd method."""
    is_reduced = torch.get_float32_matmul_precision() != "highest"
    return device.type == "cpu" and not is_reduced
