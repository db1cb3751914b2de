"""Resizing of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..call import Call
from ..table import REFUSED, Written, handles
from .pooling import adaptive_avg_pool_of

_MODES = {
    "nearest": ("nearest", "floor"),
    "nearest-exact": ("nearest", "round_prefer_ceil"),
    "linear": ("linear", "floor"),
    "bilinear": ("linear", "floor"),
    "trilinear": ("linear", "floor"),
    "bicubic": ("cubic", "floor"),
}


@handles("F.interpolate", "F.upsample", "F.upsample_nearest", "F.upsample_bilinear")
def interpolate(
    call: Call,
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Written:
    """Writes Resize by factors where factors are given, else to sizes."""
    name = call.function.__name__
    mode = "bilinear" if name == "upsample_bilinear" else mode
    align_corners = True if name == "upsample_bilinear" else align_corners
    if antialias:
        return REFUSED
    if mode == "area":
        return adaptive_avg_pool_of(call, input, input.dim() - 2)
    if mode not in _MODES:
        return REFUSED
    kind, rounding = _MODES[mode]
    by_factor = scale_factor is not None and not recompute_scale_factor
    factors = _factors(scale_factor, input.dim() - 2) if by_factor else None
    x = call.value(input)
    sizes = call.ints(call.result.shape) if factors is None else None
    scales = None if factors is None else call.array(np.array([1.0, 1.0, *factors], dtype=np.float32))
    return call.op(
        "Resize",
        x,
        None,
        scales,
        sizes,
        coordinate_transformation_mode=_coordinates(mode, bool(align_corners)),
        cubic_coeff_a=-0.75,
        mode=kind,
        nearest_mode=rounding,
    )


def _coordinates(mode: str, align_corners: bool) -> str:
    if mode == "nearest":
        return "asymmetric"
    return "align_corners" if align_corners else "half_pixel"


def _factors(scale_factor: Any, count: int) -> list[float]:
    given = scale_factor if isinstance(scale_factor, Sequence) else [scale_factor] * count
    return [float(one) for one in given]
