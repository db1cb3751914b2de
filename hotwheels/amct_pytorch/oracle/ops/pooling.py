"""Poolings on float64 arrays, exact for integers."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..deploy_pair import Node
from .windows import Windows, windows


def max_pool(node: Node, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the maxima; padding is ignored, and the maximum of a window of padding alone is -inf."""
    if node.op_type == "GlobalMaxPool":
        return np.asarray(x.max(axis=_spatial(x), keepdims=True))
    return _over_windows(_geometry(node, x), x, functools.partial(np.max, initial=-np.inf))


def max_indices(node: Node, x: NDArray[np.float64], maxima: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the indices of the maxima in the flattened ``x``; the first of equal maxima."""
    geometry = _geometry(node, x)
    places = geometry.pad(np.arange(x.size, dtype=np.int64).reshape(x.shape), -1)
    padded = geometry.pad(x, -np.inf)
    result = np.full(maxima.shape, -1, dtype=np.int64)
    for position in itertools.product(*map(range, geometry.kernel)):
        place = geometry.tap(places, position)
        is_first = (result < 0) & (place >= 0) & (geometry.tap(padded, position) == maxima)
        result = np.where(is_first, place, result)
    return result


def sum_pool(node: Node, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the window sums of an average pooling, and the divisor of each position, which broadcasts."""
    if node.op_type == "GlobalAveragePool":
        axes = _spatial(x)
        count = float(np.prod([x.shape[axis] for axis in axes]))
        return x.sum(axis=axes, keepdims=True), np.full((1,) * x.ndim, count)
    geometry = _geometry(node, x)
    divisors = _divisors(geometry, is_padding_counted=bool(node.get("count_include_pad", 0)))
    return _over_windows(geometry, x, np.sum), divisors


def _geometry(node: Node, x: NDArray[Any]) -> Windows:
    return windows(node, x.shape[2:], node.get("kernel_shape"), ceil_mode=bool(node.get("ceil_mode", 0)))


def _over_windows(
    geometry: Windows, x: NDArray[np.float64], reduce: Callable[..., NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Returns ``reduce`` of each window's elements, without the padding, which may be far larger than ``x``.

    One axis after the other: a window is a product of ranges.
    """
    result = x
    for at, count in enumerate(geometry.output):
        axis = at + 2
        ranges = (geometry.inside(at, window) for window in range(count))
        reduced = [reduce(result[(slice(None),) * axis + (one,)], axis=axis) for one in ranges]
        result = np.stack(reduced, axis)
    return result


def _divisors(geometry: Windows, *, is_padding_counted: bool) -> NDArray[np.float64]:
    """Returns the divisor of each window; elements that ceil_mode adds beyond the padding never count, as in torch."""
    result = np.ones(geometry.output)
    for axis, size in enumerate(geometry.size):
        counts = np.ones(size)
        ones = np.pad(counts, (geometry.begin[axis], geometry.end[axis]), constant_values=float(is_padding_counted))
        per_window = [_valid_taps(ones, geometry, axis, window) for window in range(geometry.output[axis])]
        shape = [1] * len(geometry.output)
        shape[axis] = -1
        result = result * np.reshape(per_window, shape)
    return result


def _valid_taps(ones: NDArray[Any], geometry: Windows, axis: int, window: int) -> float:
    start, dilation = window * geometry.stride[axis], geometry.dilation[axis]
    return float(ones[start : start + dilation * (geometry.kernel[axis] - 1) + 1 : dilation].sum())


def _spatial(x: NDArray[Any]) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))
