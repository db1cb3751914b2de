"""Resize and Upsample: one axis after the other, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..deploy_pair import Node
from .registry import Array, register

_UNSUPPORTED = {"antialias": (0,), "exclude_outside": (0,), "keep_aspect_ratio_policy": ("stretch",)}


@register("Resize", "Upsample")
def _resize(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    for attribute, allowed in _UNSUPPORTED.items():
        if node.get(attribute, allowed[0]) not in allowed:
            raise ValueError(f"{attribute}={node.get(attribute)!r} is not supported.")
    x = inputs[0]
    # The last axis first: the order in which torch's kernels sum.
    for axis, (size, scale) in sorted(targets(node, inputs).items(), reverse=True):
        x = _resize_axis(node, x, axis, size, scale)
    return (x,)


def cubic_weights(fraction: NDArray[np.float64], a: float) -> list[NDArray[np.float64]]:
    """Returns the weights of the taps -1, 0, 1, 2 (Keys, Cubic Convolution Interpolation, 1981)."""

    def near(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(((a + 2.0) * t - (a + 3.0)) * t * t + 1.0)

    def far(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a)

    return [far(fraction + 1.0), near(fraction), near(1.0 - fraction), far(2.0 - fraction)]


def targets(node: Node, inputs: Sequence[Any]) -> dict[int, tuple[int, float]]:
    """Returns (size, scale) of every axis that is resized."""
    x = inputs[0]
    scales, sizes = _scales_and_sizes(node, inputs)
    given = sizes if sizes is not None else scales
    axes = [int(axis) % x.ndim for axis in node.get("axes", range(x.ndim))]
    targets = {}
    for axis, value in zip(axes, given, strict=True):
        size = int(value) if sizes is not None else math.floor(x.shape[axis] * float(value))
        scale = size / x.shape[axis] if sizes is not None else float(value)
        if scale != 1.0:
            targets[axis] = (size, scale)
    return targets


def _scales_and_sizes(node: Node, inputs: Sequence[Any]) -> tuple[Any, Any]:
    """Returns (scales, sizes), one of them None.

    The inputs are (x, roi, scales, sizes) since opset 11; Upsample and older Resize have (x, scales).
    """
    if node.op_type == "Upsample" or node.opset < 11:
        return (inputs[1] if len(inputs) > 1 else node.get("scales")), None
    sizes = inputs[3] if len(inputs) > 3 else None
    scales = inputs[2] if len(inputs) > 2 else None
    if sizes is not None and sizes.size:
        return None, sizes
    if scales is None or not scales.size:
        raise ValueError("it has neither scales nor sizes.")
    return scales, None


def _resize_axis(node: Node, x: Array, axis: int, size: int, scale: float) -> Array:
    mode = node.get("mode", "nearest")
    # Positions are computed in float32, as runtimes do: rounding decides between two pixels near their common edge.
    dtype = np.float32 if mode == "nearest" else np.float64
    places = _coordinates(node, size, x.shape[axis], scale, dtype)
    if mode == "nearest":
        return np.take(x, np.clip(_nearest(node, places), 0, x.shape[axis] - 1), axis=axis)
    if mode == "linear":
        return _blend(x, axis, np.clip(places, 0.0, x.shape[axis] - 1.0), is_cubic=False)
    if mode == "cubic":
        return _blend(x, axis, places, is_cubic=True, a=node.get("cubic_coeff_a", -0.75))
    raise ValueError(f"mode {mode!r} is not supported.")


def _coordinates(
    node: Node, size: int, source: int, scale: float, dtype: type[np.floating[Any]]
) -> NDArray[np.floating[Any]]:
    """Returns the position in the input of each output element, computed in ``dtype``."""
    at, scale = np.arange(size, dtype=dtype), dtype(scale)  # type: ignore[assignment]
    default = "asymmetric" if node.op_type == "Upsample" or node.opset < 11 else "half_pixel"
    transformation = node.get("coordinate_transformation_mode", default)
    if transformation == "pytorch_half_pixel" and size == 1:
        return np.zeros(1)
    if transformation in ("half_pixel", "pytorch_half_pixel"):
        return np.asarray((at + dtype(0.5)) / scale - dtype(0.5))
    if transformation == "align_corners":
        return at * (source - 1) / (size - 1) if size > 1 else np.zeros(1)
    if transformation == "asymmetric":
        return np.asarray(at / scale)
    raise ValueError(f"coordinate_transformation_mode {transformation!r} is not supported.")


def _nearest(node: Node, places: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    default = "floor" if node.op_type == "Upsample" or node.opset < 11 else "round_prefer_floor"
    rounding: dict[str, Callable[..., Any]] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda at: np.ceil(at - 0.5),
        "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    }
    return np.asarray(rounding[node.get("nearest_mode", default)](places)).astype(np.int64)


def _blend(x: Array, axis: int, places: NDArray[np.floating[Any]], *, is_cubic: bool, a: float = -0.75) -> Array:
    """Returns the weighted sum of neighbours; positions outside take the border's value."""
    floor = np.floor(places)
    fraction = places - floor
    weights = cubic_weights(fraction, a) if is_cubic else [1.0 - fraction, fraction]
    shape = [1] * x.ndim
    shape[axis] = -1
    result = np.zeros(())
    for number, weight in enumerate(weights):
        index = np.clip(floor.astype(np.int64) + number - (1 if is_cubic else 0), 0, x.shape[axis] - 1)
        result = result + weight.reshape(shape) * np.take(x, index, axis=axis)
    return np.asarray(result)
