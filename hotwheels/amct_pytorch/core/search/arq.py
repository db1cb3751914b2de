"""ARQ: the grid ends at the largest absolute weight, per output channel or per tensor (spec 6.1)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..affine import canonical_scale
from ..params import QuantParams
from ..spec import SMALLEST_SCALE, QuantSpec
from ..statistics.extremes import row_extremes

# spec 4.3, with u = 1 / 655040: a layer with a bias above 2^22 u gets weight scales of at least 5 u.
LARGE_BIAS = 6.4031265
LARGE_BIAS_EPS = 7.63312164e-06


def weight_params(
    weight: Tensor,
    spec: QuantSpec,
    eps: float = SMALLEST_SCALE,
    legacy_negative_full_scale: bool = False,
    factor: Tensor | None = None,
) -> QuantParams:
    """Returns the symmetric grid ``scale = max(max|w| / Qmax, eps)``, canonical; scale of shape [C_out] or [].

    Args:
      weight: [C_out, ...]; a scale per index of axis 0 if ``spec.channel_axis`` is 0.
      spec: Width and axis; ``symmetric`` is ignored, since weight grids always are symmetric.
      eps: Lower bound of every scale (spec 4.3).
      legacy_negative_full_scale: Divide by 2^(n-1) where the negative side is larger (spec 4.1).
      factor: [C_out]; the result is, to the bit, the grid of ``weight * factor``, without making that product.
    """
    low, high = _bounds(weight.detach().to(torch.float32), spec.channel_axis, factor)
    scale = torch.maximum(-low, high) / spec.qmax
    if legacy_negative_full_scale:
        scale = torch.where(-low > high, -low / -spec.qmin, scale)
    scale = canonical_scale(at_least(scale, eps))
    return QuantParams(scale=scale, offset=torch.zeros_like(scale, dtype=torch.int32), num_bits=spec.num_bits)


def eps_for_bias(eps: float, bias: Tensor | None) -> float:
    """Returns the lower bound of the weight scales of a layer with this ``bias`` (after BN folding, spec 4.3)."""
    if bias is None or not bool((bias.detach().to(torch.float32).abs() > LARGE_BIAS).any()):
        return eps
    return max(eps, LARGE_BIAS_EPS)


def _bounds(weight: Tensor, channel_axis: int | None, factor: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns the smallest and the largest value of ``weight``, or of ``weight * factor``.

    Rounding is monotonic, so the extremes of the rounded products are the rounded products of the extremes.
    """
    if channel_axis is None and factor is None:
        low, high = torch.aminmax(weight)
        return low, high
    rows = weight.transpose(0, channel_axis or 0).reshape(weight.shape[channel_axis or 0], -1)
    low, high = row_extremes(rows)
    if factor is not None:
        low, high = torch.minimum(low * factor, high * factor), torch.maximum(low * factor, high * factor)
    return (low, high) if channel_axis is not None else (low.min(), high.max())


def at_least(scale: Tensor, eps: float) -> Tensor:
    """Returns ``max(scale, eps)`` such that the canonical form is not below eps either.

    The canonical form may round an ulp down; nothing smaller than ``eps`` may reach the hardware.
    """
    return scale.clamp(min=floor_of_scale(eps))


@functools.cache
def floor_of_scale(eps: float) -> float:
    """Returns the smallest float32 from ``eps`` rounded to float32 on whose canonical form is not below ``eps``."""
    floor = torch.tensor(eps, dtype=torch.float32)
    if float(canonical_scale(floor)) < eps:
        floor = torch.nextafter(floor, torch.full_like(floor, torch.inf))
    return float(floor)
