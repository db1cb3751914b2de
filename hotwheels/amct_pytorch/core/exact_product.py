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

_FLOAT32_EXACT = 2**24
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
        # Integers of 8 bits: exact in float32 up to 131,072 terms.
        kind = torch.float32 if weight.shape[1] * _BYTE // 2 < _FLOAT32_EXACT else torch.float64
        total, magnitude = (sums.double() for sums in (weight.sum(1, dtype=kind), weight.abs().sum(1, dtype=kind)))
        positive, negative = (magnitude + total) / 2, (magnitude - total) / 2
        sums = torch.maximum(self.high * positive - self.low * negative, self.high * negative - self.low * positive)
        return float(sums.max()) if sums.numel() else 0.0


Product = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


def weighted_product(
    product: Product,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    limits: Range,
    axis: int,
    groups: int,
    weight_bound: float | None = None,
) -> tuple[Tensor, float]:
    """Returns ``product(x, weight, bias)`` exactly, and the largest magnitude that it can have with any ``x``.

    Float32 where that is below 2^24, else float64.

    Args:
      product: A function linear in ``x`` and in ``weight``, with zero padding, that adds ``bias`` unless it is None.
      x: Integers in ``limits``, float32; its channels are at ``axis``.
      weight: Integers, output channels first, float32: [C_out, C_in / groups, ...].
      bias: Integers, float64 [C_out], or None.
      limits: Smallest and largest integer that ``x`` can hold.
      axis: Axis of the channels in ``x`` and in the result.
      groups: Groups of the convolution; with more than 1 the sums are short and not cut.
      weight_bound: ``limits.bound(weight.flatten(1))`` if that is known already.
    """
    largest = float(bias.abs().max()) if bias is not None and bias.numel() else 0.0
    bound = (limits.bound(weight.flatten(1)) if weight_bound is None else weight_bound) + largest
    if not float32_is_exact(x.device):
        return product(x.double(), weight.double(), bias), bound
    if x.dim() == 4 and axis == -3:  # in this layout the kernels of CPUs need no copy of their own
        x = x.contiguous(memory_format=torch.channels_last)
    if bound < _FLOAT32_EXACT:
        return product(x, weight, None if bias is None else bias.float()), bound
    sums = _wide_product(product, x, weight, limits, axis, groups)
    return (sums if bias is None else sums.add_(bias.reshape(-1, *[1] * (-axis - 1)))), bound


def _wide_product(product: Product, x: Tensor, weight: Tensor, limits: Range, axis: int, groups: int) -> Tensor:
    """Returns the product in float64, without the bias."""
    if limits.is_narrow:
        return _in_parts(product, x, weight, limits, axis, groups).double()
    upper, lower = _bytes(x)
    above = _in_parts(product, upper, weight, Range(limits.low // _BYTE, limits.high // _BYTE), axis, groups).double()
    return above.mul_(_BYTE).add_(_in_parts(product, lower, weight, Range(0, _BYTE - 1), axis, groups))


def _in_parts(product: Product, x: Tensor, weight: Tensor, limits: Range, axis: int, groups: int) -> Tensor:
    parts = _parts(weight, limits, groups)
    if not parts:
        return product(x.double(), weight.double(), None)
    if len(parts) == 1:
        return product(x, weight, None)
    total: Tensor | None = None
    for start, size in parts:
        part = product(x.narrow(axis, start, size), weight.narrow(1, start, size), None)
        total = part.double() if total is None else total.add_(part)
    assert total is not None
    return total


def _parts(weight: Tensor, limits: Range, groups: int) -> list[tuple[int, int]]:
    """Returns the fewest equal cuts (start, size) of the input channels with sums exact in float32; [] if too many."""
    channels = weight.shape[1]
    for count in range(1, (_MOST_PARTS if groups == 1 else 1) + 1):
        size = -(-channels // count)
        starts = range(0, channels, max(size, 1))
        cuts = [(start, min(size, channels - start)) for start in starts]
        if all(limits.bound(weight.narrow(1, *cut).flatten(1)) < _FLOAT32_EXACT for cut in cuts):
            return cuts
    return []


def matrix_product(left: Tensor, right: Tensor, left_limits: Range, right_limits: Range) -> Tensor:
    """Returns the exact product of two float32 tensors of integers; float32 where it is known to be below 2^24."""
    largest = max(-right_limits.low, right_limits.high) * left.shape[-1]
    if not float32_is_exact(left.device):
        return torch.matmul(left.double(), right.double())
    if _largest(left_limits) * largest < _FLOAT32_EXACT:
        return torch.matmul(left, right)
    if left_limits.is_narrow or (_BYTE - 1) * largest >= _FLOAT32_EXACT:
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
