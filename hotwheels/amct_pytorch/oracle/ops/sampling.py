"""Sampling of images at given positions: GridSample, AffineGrid, Warp, GlobalWarp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..deploy_pair import Node
from .registry import CUSTOM_DOMAIN, Array, register
from .resize import cubic_weights

_CUBIC_A = -0.75  # in the ONNX standard and in torch
_MODES = {"bilinear": "linear", "bicubic": "cubic"}  # names before opset 20


@register("GridSample")
def _grid_sample(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    mode = node.get("mode", "linear")
    padding, is_aligned = node.get("padding_mode", "zeros"), bool(node.get("align_corners", 0))
    return (grid_sample(inputs[0], inputs[1], _MODES.get(mode, mode), padding, is_aligned),)


@register("AffineGrid")
def _affine_grid(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    """The positions x, y (, z) of an output's pixels after the maps ``theta`` [N, 2, 3] or [N, 3, 4]."""
    theta, size = inputs
    extents, is_aligned = [int(one) for one in size[2:]], bool(node.get("align_corners", 0))
    axes = [_places(extent, is_aligned) for extent in extents]
    places = np.stack([*np.meshgrid(*axes, indexing="ij")[::-1], np.ones(extents)], axis=-1)
    return (np.einsum("...j,nij->n...i", places, theta),)


def _places(count: int, is_aligned: bool) -> NDArray[np.float64]:
    if is_aligned:
        return np.linspace(-1, 1, count) if count > 1 else np.zeros(count)
    return (np.arange(count) * 2 + 1) / max(count, 1) - 1


@register("GlobalWarp", domain=CUSTOM_DOMAIN)
def _global_warp(_node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    return (grid_sample(inputs[0], inputs[1], "nearest", "border", True),)


@register("Warp", domain=CUSTOM_DOMAIN)
def _warp(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    """Warp; the grid spans the region ``roi`` = (x0, y0, x1, y1), end exclusive (spec 12.1)."""
    x, grid = inputs
    left, top, right, bottom = node.get("roi") or (0, 0, x.shape[3], x.shape[2])
    return (grid_sample(x[:, :, top:bottom, left:right], grid, "nearest", "border", True),)


def grid_sample(x: Array, grid: Array, mode: str, padding: str, is_aligned: bool) -> Array:
    """Returns ``x`` [N, C, H, W] sampled at ``grid`` [N, Ho, Wo, 2] (x, y); -1 and 1 are the ends of the image.

    Raises:
      ValueError: The input is not four-dimensional.
    """
    if x.ndim != 4:
        raise ValueError(f"only images are sampled; the input has {x.ndim} dimensions.")
    height, width = x.shape[2:]
    across, down = (_pixels(grid[..., at], size, is_aligned) for at, size in ((0, width), (1, height)))
    if mode == "cubic":
        return _weighted(x, down, across, padding, is_aligned, is_cubic=True)
    down, across = _inside(down, height, padding, is_aligned), _inside(across, width, padding, is_aligned)
    if mode == "linear":
        return _weighted(x, down, across, padding, is_aligned, is_cubic=False)
    return _fetch(x, np.rint(down), np.rint(across))


def _pixels(place: NDArray[np.float64], size: int, is_aligned: bool) -> NDArray[np.float64]:
    return np.asarray((place + 1) / 2 * (size - 1) if is_aligned else ((place + 1) * size - 1) / 2)


def _inside(place: NDArray[np.float64], size: int, padding: str, is_aligned: bool) -> NDArray[np.float64]:
    """Returns the positions, with those outside the image moved inside as the padding mode says."""
    if padding == "zeros":
        return place
    if padding == "reflection":
        low, high = (0.0, size - 1.0) if is_aligned else (-0.5, size - 0.5)
        place = _reflected(place, low, high)
    return np.clip(place, 0, size - 1)


def _reflected(place: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    span = high - low
    if span == 0:
        return np.zeros_like(place)
    distance = np.abs(place - low)
    rest, turns = np.fmod(distance, span), np.floor(distance / span)
    return np.where(turns % 2 == 0, rest + low, span - rest + low)


def _weighted(
    x: Array, down: Array, across: Array, padding: str, is_aligned: bool, *, is_cubic: bool
) -> NDArray[np.float64]:
    result = np.zeros((*x.shape[:2], *down.shape[1:]))
    for row, row_weight in _taps(down, is_cubic):
        for column, column_weight in _taps(across, is_cubic):
            if is_cubic:
                row_inside = _inside(row, x.shape[2], padding, is_aligned)
                column_inside = _inside(column, x.shape[3], padding, is_aligned)
            else:
                row_inside, column_inside = row, column
            result += (row_weight * column_weight)[:, None] * _fetch(x, row_inside, column_inside)
    return result


def _taps(place: Array, is_cubic: bool) -> list[tuple[Array, Array]]:
    floor = np.floor(place)
    fraction = place - floor
    weights = cubic_weights(fraction, _CUBIC_A) if is_cubic else [1.0 - fraction, fraction]
    first = -1 if is_cubic else 0
    return [(floor + first + number, weight) for number, weight in enumerate(weights)]


def _fetch(x: Array, rows: Array, columns: Array) -> Array:
    """Returns the pixels at integer positions, 0 outside the image."""
    height, width = x.shape[2:]
    is_inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    row = np.where(is_inside, rows, 0).astype(np.int64)
    column = np.where(is_inside, columns, 0).astype(np.int64)
    batch = np.arange(len(x))[:, None, None]
    pixels = np.moveaxis(x[batch, :, row, column], -1, 1)
    return np.where(is_inside[:, None], pixels, 0.0)
