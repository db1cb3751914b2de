"""Integers of weights and biases in NumPy; bit-equal to the results of the torch code (spec 4.1, 4.4, 6.3).

Weights have the operator's layout. ``channel_axis`` is the axis with one scale per index; with ``groups`` > 1 (grouped
ConvTranspose: (in, out/G, kH, kW), axis 1) output channel ``g * out/G + j`` is column ``j`` of the rows of group ``g``
(spec 6.1).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..core import native
from ..core.spec import QuantSpec
from ..errors import ExportError
from ..onnx_io.rows_tensor import RowsTensor, ScaledTensor, in_order
from ..record.record import ActivationRecord, WeightRecord

_CODEBOOK_SIZE = 16
_INT32_MAX = 2**31 - 1

Float32 = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False)
class WeightIntegers:
    """The integers of a weight, computed row by row, so that a large model's integers are never all in memory.

    Uniform: ``clip(rhe(w / scale), Qmin, Qmax)`` in float32. Non-uniform: the codebook value nearest to ``w / scale``.

    Attributes:
      weight: The real values; a `ScaledTensor` is computed when it is read.
      scale: The scales; broadcasts against the weight.
      record: The grid.
    """

    weight: Float32 | ScaledTensor
    scale: Float32
    record: WeightRecord

    @classmethod
    def of(
        cls, weight: Float32 | ScaledTensor, record: WeightRecord, channel_axis: int, groups: int = 1
    ) -> WeightIntegers:
        """Returns the integers of ``weight``, which are computed later.

        Raises:
            ExportError: The scales or the codebook do not fit; the caller adds the layer's name.
        """
        count = len(record.codebook or ())
        if count not in (0, _CODEBOOK_SIZE):
            raise ExportError(f"a non-uniform weight needs {_CODEBOOK_SIZE} codebook values (params), got {count}.")
        return cls(weight, spread_scale(record.scale, shape_of(weight), channel_axis, groups), record)

    def rows(self, start: int, stop: int) -> NDArray[np.int8]:
        """Returns the integers of ``weight[start:stop]``."""
        weight = self.weight[start:stop]
        scale = self.scale[start:stop] if self.scale.ndim and len(self.scale) > 1 else self.scale
        if self.record.codebook:
            return _nearest(in_order(weight), scale, self.record.codebook)
        qmax = QuantSpec(num_bits=self.record.num_bits).qmax
        if native.is_there() and weight.dtype == np.float32:
            is_by_row = not any(size > 1 for size in scale.shape[1:])
            # The weight of a Linear layer is transposed in the file: bytes are moved faster than floats.
            is_transposed = weight.ndim == 2 and not weight.flags.c_contiguous
            if is_transposed and (scale.size == 1 or not is_by_row):
                return in_order(native.quantize_weight(weight.T, scale.T, qmax).T)
            if is_by_row:
                return native.quantize_weight(in_order(weight), scale, qmax)
        return _round(in_order(weight), scale, 0, self.record.num_bits).astype(np.int8)

    def all(self) -> NDArray[np.int8]:
        """Returns the integers of all rows."""
        return self.rows(0, shape_of(self.weight)[0])

    def tensor(self, dtype: ir.DataType) -> ir.TensorProtocol:
        """Returns the integers as an initializer of type ``dtype``, computed while it is written."""
        return RowsTensor(self.rows, dtype, shape_of(self.weight))


def shape_of(weight: Float32 | ScaledTensor) -> tuple[int, ...]:
    """Returns the shape of ``weight``."""
    return weight.shape.numpy() if isinstance(weight, ScaledTensor) else weight.shape


def quantize_bias(bias: Float32, data_scale: float, weight_scale: tuple[float, ...]) -> NDArray[np.int32]:
    """Returns ``rhe(bias / (scale_d * scale_w))`` in float64, of shape [C_out].

    Raises:
        ExportError: A value does not fit into int32; calibration prevents this by enlarging the weight scale.
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
    """Returns the float32 nearest to each grid point, [C_out]; ``bias`` if that float32 gives another integer."""
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
    """Returns the scales shaped to broadcast against a weight of ``shape``; a scalar for a single scale."""
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
    """Returns ``clip(rhe(x / scale) + offset, Qmin, Qmax)``, computed in float32 as QuantizeLinear does (spec 4.1)."""
    spec = QuantSpec(num_bits=num_bits)
    return np.asarray(np.clip(np.rint(x / scale) + np.float32(offset), spec.qmin, spec.qmax), dtype=np.float32)


def _nearest(weight: Float32, scale: Float32, codebook: tuple[int, ...]) -> NDArray[np.int8]:
    """Returns the codebook value nearest to ``w / scale``; on a tie the lower value (spec 6.3)."""
    values = np.sort(np.asarray(codebook, dtype=np.int8))
    middles = (values[:-1].astype(np.float32) + values[1:]) / 2  # exact: halves of integers
    return np.asarray(values[np.searchsorted(middles, weight / scale)])
