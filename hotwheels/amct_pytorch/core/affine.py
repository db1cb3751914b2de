"""Quantization and dequantization with a scale and an offset; all other code calls these (spec 4.1 - 4.5)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from . import native
from .spec import SMALLEST_SCALE, QuantSpec

_INT32_MAX = 2**31 - 1


def canonical_scale(scale: Tensor) -> Tensor:
    """Returns ``fl32(1 / fl32(1 / scale))``, a fixed point of double reciprocation (spec 4.5).

    So the record (``scale``) and the parameter file (``1 / scale``) determine each other exactly.
    """
    return scale.to(torch.float32).reciprocal().reciprocal()


def affine_params(low: Tensor, high: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Returns (scale, offset) for the range [low, high], float32 and int32, of the shape of ``low``.

    Asymmetric: ``scale = (high - low) / (2^n - 1)`` with 0 inside the range, ``offset = Qmin - rhe(low / scale)``.
    Symmetric: ``scale = max(|low|, |high|) / Qmax``, ``offset = 0``. The scale is canonical. A range so small that
    scale < 2^-23 gives scale 1 and offset Qmin (asymmetric) or 0 (spec 4.3). No gradient for two numbers on the CPU.
    """
    if not low.dim() and not high.dim() and low.device.type == high.device.type == "cpu":
        ends = low.item(), high.item()
        if math.isfinite(ends[0]) and math.isfinite(ends[1]):
            step, zero = params_of_numbers(*ends, spec)
            return torch.tensor(step, dtype=torch.float32), torch.tensor(zero, dtype=torch.int32)
    low, high = low.to(torch.float32).clamp(max=0.0), high.to(torch.float32).clamp(min=0.0)
    if spec.symmetric:
        scale = torch.maximum(-low, high) / spec.qmax
    else:
        scale = high / spec.levels - low / spec.levels  # the difference itself may overflow float32
    empty = scale < SMALLEST_SCALE
    scale = canonical_scale(torch.where(empty, torch.ones_like(scale), scale))
    if spec.symmetric:
        return scale, torch.zeros_like(scale, dtype=torch.int32)
    return scale, offset_of(torch.where(empty, torch.zeros_like(low), low), scale, spec)


def params_of_numbers(low: float, high: float, spec: QuantSpec) -> tuple[float, int]:
    """Returns `affine_params` of two finite numbers, as numbers: its float32 operations in NumPy, which take less."""
    one, bottom, top = np.float32(1), min(np.float32(low), np.float32(0)), max(np.float32(high), np.float32(0))
    if spec.symmetric:
        scale = max(-bottom, top) / np.float32(spec.qmax)
    else:
        scale = top / np.float32(spec.levels) - bottom / np.float32(spec.levels)
    if scale < SMALLEST_SCALE:
        scale, bottom = one, np.float32(0)
    scale = one / (one / scale)
    offset = 0 if spec.symmetric else min(max(spec.qmin - int(np.rint(bottom / scale)), spec.qmin), spec.qmax)
    return float(scale), offset


def offset_of(low: Tensor, scale: Tensor, spec: QuantSpec) -> Tensor:
    """Returns the int32 offset ``Qmin - rhe(low / scale)`` that puts ``low`` <= 0 on the lowest integer."""
    steps = torch.round(low / scale)
    return (spec.qmin - steps).clamp(spec.qmin, spec.qmax).to(torch.int32)


def is_empty_range(low: Tensor, high: Tensor, spec: QuantSpec) -> bool:
    """Whether the range is too small to be quantized, e.g. the range of an all-zero tensor (spec 4.3)."""
    return is_empty(float(low.min()), float(high.max()), spec)


def is_empty(low: float, high: float, spec: QuantSpec) -> bool:
    """Returns `is_empty_range` of two numbers."""
    lowest, highest = min(0.0, low), max(0.0, high)
    width = max(-lowest, highest) / spec.qmax if spec.symmetric else (highest - lowest) / spec.levels
    return width < SMALLEST_SCALE


def quantize(x: Tensor, scale: Tensor, offset: Tensor, num_bits: int) -> Tensor:
    """Returns ``clip(rhe(x / scale) + offset, Qmin, Qmax)``, integers in the float type of ``x``.

    Division, not multiplication by a reciprocal; float32 for a float32 ``x``, float64 for a float64 one (spec 10.2).
    Clamped before any cast: ``Tensor.to(int8)`` wraps around.
    """
    spec = QuantSpec(num_bits=num_bits)
    return torch.round(x / scale.to(x.dtype)).add_(offset.to(x.dtype)).clamp_(spec.qmin, spec.qmax)


def fake_quantize(x: Tensor, scale: Tensor, offset: Tensor, num_bits: int, out: Tensor | None = None) -> Tensor:
    """Returns the nearest grid point of each element; equals ``(quantize(x) - offset) * scale``.

    No gradient. The result is a new tensor, or ``out``, which has the layout of ``x`` and may be ``x`` itself.
    """
    return _fake_quantize(x, scale, offset, num_bits, out)[0]


def fake_quantize_and_look(x: Tensor, scale: Tensor, offset: Tensor, num_bits: int) -> tuple[Tensor, bool]:
    """Returns ``fake_quantize(x, scale, offset, num_bits)``, and whether ``x`` holds NaN."""
    result, has_nan = _fake_quantize(x, scale, offset, num_bits, None)
    return result, bool(result.isnan().any()) if has_nan is None else has_nan


def _fake_quantize(
    x: Tensor, scale: Tensor, offset: Tensor, num_bits: int, out: Tensor | None
) -> tuple[Tensor, bool | None]:
    """Returns the result, and whether ``x`` holds NaN: None if the kernel used does not report NaN."""
    spec = QuantSpec(num_bits=num_bits)
    if not scale.dim() and native.handles(x if out is None else out, x):
        out, zero = torch.empty_like(x) if out is None else out, int(offset)
        return out, native.fake_quantize(x, out, scale.item(), spec.qmin - zero, spec.qmax - zero)
    bounds = (spec.qmin - offset).to(x.dtype), (spec.qmax - offset).to(x.dtype)
    real = torch.round(x / scale.to(x.dtype)).clamp_(*bounds).mul_(scale.to(x.dtype))
    return real if out is None else out.copy_(real), None


def real_ends(scale: Tensor, offset: Tensor, num_bits: int) -> tuple[Tensor, Tensor]:
    """Returns the real values of Qmin and Qmax; values outside of them are clipped."""
    spec = QuantSpec(num_bits=num_bits)
    if scale.dim() or scale.device.type != "cpu" or scale.requires_grad or scale.dtype != torch.float32:
        return (spec.qmin - offset) * scale, (spec.qmax - offset) * scale
    # The same products in float64, which holds them exactly, in Python, where an operation takes less.
    ends = ((end - int(offset)) * scale.item() for end in (spec.qmin, spec.qmax))
    low, high = (torch.tensor(end, dtype=torch.float32) for end in ends)
    return low, high


def bias_scale_floor(bias: Tensor, data_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """Returns ``weight_scale`` enlarged where the int32 bias would overflow (spec 4.4); canonical, float32."""
    needed = bias.double().abs() / (_INT32_MAX * data_scale.double())
    if weight_scale.dim() == 0:
        needed = needed.max()
    if not bool((needed > weight_scale.double()).any()):
        return weight_scale
    # Larger by some float32 ulps: else rounding to float32 and to the canonical form could bring the overflow back.
    enlarged = canonical_scale(needed * (1 + 2.0**-20))
    return torch.where(needed > weight_scale.double(), enlarged, weight_scale)


def quantize_bias(bias: Tensor, data_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """Returns ``rhe(bias / (scale_d * scale_w))``, int32-valued float64 of shape [C_out] (spec 4.4)."""
    return torch.round(bias.double() / (data_scale.double() * weight_scale.double()))
