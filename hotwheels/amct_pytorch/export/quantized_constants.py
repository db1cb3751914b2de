"""Integers of weights and biases in NumPy; bit-equal to what the torch side computes (spec 4.1, 4.4, 6.3).

A weight comes in the operator's layout. ``channel_axis`` is the axis with one scale per index; with ``groups`` > 1
(grouped ConvTranspose: (in, out/G, kH, kW), axis 1) output channel ``g * out/G + j`` is the rows of group ``g``,
column ``j`` (spec 6.1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core import native
from ..core.spec import QuantSpec
from ..errors import ExportError
from ..record.record import ActivationRecord, WeightRecord

_CODEBOOK_SIZE = 16
_INT32_MAX = 2**31 - 1

Float32 = NDArray[np.float32]


def quantize_weight(weight: Float32, record: WeightRecord, channel_axis: int, groups: int = 1) -> NDArray[np.int8]:
    """Returns the integers of ``weight``, of its shape.

    Uniform: ``clip(rhe(w / scale), Qmin, Qmax)`` in float32. Non-uniform: the codebook value nearest to ``w / scale``.

    Raises:
        ExportError: The scales or the codebook do not fit; the caller adds the layer's name.
    """
    scale = spread_scale(record.scale, weight.shape, channel_axis, groups)
    if record.codebook:
        return _nearest(weight, scale, record.codebook)
    is_by_row = scale.size == 1 or (channel_axis == 0 and groups == 1)
    if native.is_there() and is_by_row and weight.dtype == np.float32 and weight.ndim:
        return native.quantize_weight(weight, scale, QuantSpec(num_bits=record.num_bits).qmax)
    return _round(weight, scale, 0, record.num_bits).astype(np.int8)


def quantize_bias(bias: Float32, data_scale: float, weight_scale: tuple[float, ...]) -> NDArray[np.int32]:
    """Returns ``rhe(bias / (scale_d * scale_w))`` in float64, of shape [C_out].

    Raises:
        ExportError: A value does not fit into int32; calibration enlarges the weight scale where that would happen.
    """
    steps = np.rint(bias.astype(np.float64) / (data_scale * np.asarray(weight_scale, dtype=np.float64)))
    worst = np.abs(steps).max(initial=0)
    if not worst <= _INT32_MAX:
        raise ExportError(
            f"the bias needs the integer {worst:.0f}, which int32 does not hold; its weight scales are too small."
        )
    return steps.astype(np.int32)


def bias_on_grid(
    bias: Float32, integers: NDArray[np.int32], data_scale: float, weight_scale: tuple[float, ...]
) -> Float32:
    """Returns the float32 nearest to each grid point, [C_out]; ``bias`` where that reads as another integer."""
    step = data_scale * np.asarray(weight_scale, dtype=np.float64)
    points = (integers * step).astype(np.float32)
    reads_right = np.rint(points.astype(np.float64) / step) == integers
    return np.asarray(np.where(reads_right, points, bias), dtype=np.float32)


def bias_scale(data_scale: float, weight_scale: tuple[float, ...]) -> Float32:
    """Returns ``fl32(scale_d * scale_w)``, a scalar array for one scale, else [C_out]."""
    product = (np.float64(data_scale) * np.asarray(weight_scale, dtype=np.float64)).astype(np.float32)
    return product.reshape(()) if product.size == 1 else product


def fake_quantize(x: NDArray[np.generic], grid: ActivationRecord) -> Float32:
    """Returns the nearest grid point of each element; for constants that are quantized like an activation."""
    scale = np.float32(grid.scale)
    return (_round(x.astype(np.float32), scale, grid.offset, grid.num_bits) - np.float32(grid.offset)) * scale


def spread_scale(scale: tuple[float, ...], shape: tuple[int, ...], channel_axis: int, groups: int = 1) -> Float32:
    """Returns the scales so shaped that they broadcast against a weight of ``shape``; a scalar for a single one."""
    values = np.asarray(scale, dtype=np.float32)
    if values.size == 1:
        return values.reshape(())
    channels = shape[channel_axis] * groups
    if values.size != channels:
        raise ExportError(f"the weight has {channels} output channels, the record has {values.size} scales.")
    wide = [1] * len(shape)
    wide[channel_axis] = shape[channel_axis]
    if groups == 1:
        return values.reshape(wide)
    wide[0] = shape[0]
    return np.repeat(values.reshape(groups, -1), shape[0] // groups, axis=0).reshape(wide)


def output_first(weight: NDArray[np.int8], groups: int) -> NDArray[np.int8]:
    """Returns a ConvTranspose weight (in, out/G, kH, kW) as (out, in/G, kH, kW)."""
    inputs, outputs, *kernel = weight.shape
    grouped = weight.reshape(groups, inputs // groups, outputs, *kernel)
    return np.ascontiguousarray(grouped.swapaxes(1, 2)).reshape(groups * outputs, inputs // groups, *kernel)


def _round(x: Float32, scale: Float32 | np.float32, offset: int, num_bits: int) -> Float32:
    """Divides, rounds half to even, adds the offset, clips; all in float32, as QuantizeLinear does (spec 4.1)."""
    spec = QuantSpec(num_bits=num_bits)
    return np.asarray(np.clip(np.rint(x / scale) + np.float32(offset), spec.qmin, spec.qmax), dtype=np.float32)


def _nearest(weight: Float32, scale: Float32, codebook: tuple[int, ...]) -> NDArray[np.int8]:
    """Returns the codebook value nearest to ``w / scale``, the lower of two (spec 6.3)."""
    if len(codebook) != _CODEBOOK_SIZE:
        raise ExportError(f"a non-uniform weight needs {_CODEBOOK_SIZE} codebook values (params), got {len(codebook)}.")
    values = np.sort(np.asarray(codebook, dtype=np.int8))
    middles = (values[:-1].astype(np.float32) + values[1:]) / 2  # exact: halves of integers
    return np.asarray(values[np.searchsorted(middles, weight / scale)])
