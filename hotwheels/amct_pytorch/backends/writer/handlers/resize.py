"""Resizing of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ....nn.smooth_resize import resize_shares
from ...calls.same_size import stays
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
    """Writes Resize by factors if the call has factors, else to sizes; with ``antialias`` two products."""
    name = call.function.__name__
    mode = "bilinear" if name == "upsample_bilinear" else mode
    align_corners = True if name == "upsample_bilinear" else align_corners
    if antialias:
        if input.dim() != 4 or not all(isinstance(one, int) for one in (*input.shape[2:], *call.result.shape[2:])):
            return REFUSED
        wanted = size, scale_factor, mode, align_corners, recompute_scale_factor
        rows, columns = resize_shares(input.shape[2:], *wanted)
        return call.op("MatMul", call.constant(rows), call.op("MatMul", call.value(input), call.constant(columns.T)))
    if mode == "area":
        return adaptive_avg_pool_of(call, input, input.dim() - 2)
    if mode not in _MODES:
        return REFUSED
    kind, rounding = _MODES[mode]
    by_factor = scale_factor is not None and not recompute_scale_factor
    factors = _factors(scale_factor, input.dim() - 2) if by_factor else None
    x = call.value(input)
    if kind == "nearest":
        picks = [
            _pick(before, after, None if factors is None else factors[axis], mode)
            for axis, (before, after) in enumerate(zip(input.shape[2:], call.result.shape[2:], strict=True))
        ]
        is_static = all(isinstance(size, int) for size in (*input.shape[2:], *call.result.shape[2:]))
        if is_static and any(one is not None for one in picks):
            return _gathered(call, input, picks, factors, mode)
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


def _pick(before: Any, after: Any, factor: float | None, mode: str) -> NDArray[np.int64] | None:
    """Returns the indices that torch picks along one axis; None if Resize picks the same.

    Both compute in float32, but torch multiplies by the reciprocal, so they may differ near the edge of a pixel.
    """
    if not isinstance(before, int) or not isinstance(after, int) or before == after:
        return None
    numbers = torch.arange(before, dtype=torch.float32).view(1, 1, -1)
    wanted = {"size": after} if factor is None else {"scale_factor": factor}
    picks = F.interpolate(numbers, mode=mode, **wanted).numpy().reshape(-1).astype(np.int64)
    return None if np.array_equal(picks, _picks_of_file(before, after, factor, mode)) else picks


def _picks_of_file(before: int, after: int, factor: float | None, mode: str) -> NDArray[np.int64]:
    at, half = np.arange(after, dtype=np.float32), np.float32(0.5)
    scale = np.float32(after) / np.float32(before) if factor is None else np.float32(factor)
    places = at / scale if mode == "nearest" else (at + half) / scale - half + half
    picks: NDArray[np.int64] = np.clip(np.floor(places), 0, before - 1).astype(np.int64)
    return picks


def _gathered(
    call: Call,
    input: Tensor,
    picks: Sequence[NDArray[np.int64] | None],
    factors: Sequence[float] | None,
    mode: str,
) -> ir.Value:
    """Writes Gather along each axis that is resized."""
    x = call.value(input)
    sizes = zip(picks, input.shape[2:], call.result.shape[2:], strict=True)
    for axis, (pick, before, after) in enumerate(sizes):
        if pick is None and not stays(before, after):
            pick = _picks_of_file(before, after, None if factors is None else factors[axis], mode)
        x = x if pick is None else call.op("Gather", x, call.array(pick), axis=axis + 2)
    return x


def _coordinates(mode: str, align_corners: bool) -> str:
    if mode == "nearest":
        return "asymmetric"
    return "align_corners" if align_corners else "half_pixel"


def _factors(scale_factor: Any, count: int) -> list[float]:
    given = scale_factor if isinstance(scale_factor, Sequence) else [scale_factor] * count
    return [float(one) for one in given]


_SAMPLE_MODES = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}  # names from opset 20 on


@handles("F.grid_sample")
def grid_sample(
    call: Call,
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Written:
    """Writes GridSample of images."""
    if input.dim() != 4 or mode not in _SAMPLE_MODES:
        return REFUSED
    call.need_opset(16, "GridSample")
    name = _SAMPLE_MODES[mode] if call.opset >= 20 else mode
    values = (call.value(input), call.value(grid))
    return call.op("GridSample", *values, mode=name, padding_mode=padding_mode, align_corners=int(bool(align_corners)))
