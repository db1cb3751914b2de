"""Convolutions, products and poolings: exact on integers, in float64 if not quantized (spec 10.3, 10.4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError, RecordError
from .deploy_pair import Layer, Node
from .ops.convolution import channel_sums, conv, conv_transpose
from .ops.pooling import max_indices, max_pool, sum_pool
from .values import Accumulator, Centred, Value, as_single

_MAX_POOLS = ("MaxPool", "GlobalMaxPool")
_AVERAGE_POOLS = ("AveragePool", "GlobalAveragePool")
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_PRODUCTS = ("Gemm", "MatMul")
_INT32 = np.iinfo(np.int32)
_INT16 = np.iinfo(np.int16)


@dataclasses.dataclass(frozen=True, eq=False)
class _Operand:
    """Integers, and the real units per step: one value, or one value per output channel."""

    integers: NDArray[Any]
    scale: NDArray[np.float64]


def is_cube(node: Node) -> bool:
    """Whether the node is one of the CUBE operations (spec 0)."""
    return not node.domain and node.op_type in (*_MAX_POOLS, *_AVERAGE_POOLS, *_CONVOLUTIONS, *_PRODUCTS)


def run_cube(node: Node, values: Sequence[Value | None], layer: Layer) -> tuple[Value, ...]:
    """Returns the outputs of a CUBE op; quantized inputs arrive as `Centred`.

    Raises:
      CalibrationError: The accumulator or the bias exceeds int32.
      RecordError: Only one operand of the product is quantized, or the weights are no integers.
    """
    if node.op_type in _MAX_POOLS or node.op_type in _AVERAGE_POOLS:
        data = _as_operand(node, values[0])
        return _unquantized(node, values) if data is None else _pooled(node, data)
    weight_at = _weight_position(node, values, layer)
    data, second = (
        _weight(node, value, layer) if at == weight_at else _as_operand(node, value)
        for at, value in enumerate(values[:2])
    )
    if data is None and second is None:
        return _unquantized(node, values)
    if data is None or second is None:
        raise RecordError(f"{node}: input {0 if data is None else 1} is not quantized, the other operand is.")
    return (_integer_product(node, data, second, _bias(node, values), layer.shift_bit),)


# --- operands ---


def _as_operand(node: Node, value: Value | None) -> _Operand | None:
    """Returns the integers of ``value`` if it is on this layer's grid; else None, as for a real number."""
    if isinstance(value, Centred) and value.layer == node.name:
        return _Operand(value.integers, np.array([value.scale]))
    return None


def _weight_position(node: Node, values: Sequence[Value | None], layer: Layer) -> int | None:
    """Returns the position of the weight: 1, or that of a product's constant input; None without a weight."""
    if layer.weight_scale is None:
        return None
    return 0 if node.op_type == "MatMul" and isinstance(values[0], np.ndarray) else 1


def _weight(node: Node, value: Value | None, layer: Layer) -> _Operand:
    if not isinstance(value, np.ndarray) or not np.issubdtype(value.dtype, np.floating):
        raise RecordError(f"{node}: the weights must be a constant.")
    # The converter's weights are at most 8 bits; params of a non-uniform weight are int8, too.
    if not ((np.rint(value) == value) & (np.abs(value) <= 128)).all():
        raise RecordError(f"{node}: the weights are not integers of 8 bits.")
    assert layer.weight_scale is not None
    channels = _out_channels(node, value)
    if layer.weight_scale.size not in (1, channels):
        raise RecordError(f"{node} has {layer.weight_scale.size} weight scales for {channels} output channels.")
    return _Operand(value.astype(np.int32), layer.weight_scale)


def _out_channels(node: Node, weight: NDArray[Any]) -> int:
    if node.op_type == "ConvTranspose":
        return int(weight.shape[1] * node.get("group", 1))
    is_first = node.op_type == "Conv" or (node.op_type == "Gemm" and node.get("transB", 0))
    return int(weight.shape[0 if is_first else -1])


def _bias(node: Node, values: Sequence[Value | None]) -> NDArray[np.float64] | None:
    value = values[2] if len(values) > 2 else None
    if value is None:
        return None
    if not isinstance(value, np.ndarray):
        raise RecordError(f"{node}: the bias must be a constant.")
    return value.astype(np.float64).reshape(-1)


# --- integers ---


def _pooled(node: Node, data: _Operand) -> tuple[Value, ...]:
    """Returns the accumulator and, if the node has that output, the indices of the maxima."""
    pooled = _integer_pool(node, data)
    if node.op_type not in _MAX_POOLS or len(node.outputs) < 2:
        return (pooled,)
    return pooled, max_indices(node, data.integers.astype(np.float64), pooled.sums.astype(np.float64))


def _integer_pool(node: Node, data: _Operand) -> Accumulator:
    x = data.integers.astype(np.float64)  # exact: a sum of fewer than 2^36 values of 17 bits
    if node.op_type in _MAX_POOLS:
        maxima = max_pool(node, x)
        if np.isneginf(maxima).any():
            raise CalibrationError(f"Layer '{node.name}': a pooling window holds nothing but padding.")
        return Accumulator(maxima.astype(np.int32), data.scale)
    sums, divisors = sum_pool(node, x)
    return Accumulator(_int32(node, sums.astype(np.int64)), data.scale * (1 / divisors))


def _integer_product(
    node: Node, data: _Operand, second: _Operand, bias: NDArray[np.float64] | None, shift_bit: tuple[int, ...]
) -> Accumulator:
    sums = _exact(node, data.integers, second.integers)
    step = data.scale * second.scale
    if bias is not None:
        sums = sums + _along_channels(node, _bias_integers(node, bias, step), sums.ndim)
    shifted = _shifted(node, _int32(node, sums), shift_bit)
    return Accumulator(shifted, _along_channels(node, step, sums.ndim))


def _exact(node: Node, data: NDArray[Any], second: NDArray[Any]) -> NDArray[np.int64]:
    """Returns the product, computed in the smallest type in which no partial sum is ever rounded."""
    bound = _largest(data) * _largest_sum(node, second)
    if bound < 2**24:  # float32 has 24 bits of mantissa, float64 53
        return _product(node, data.astype(np.float32), second.astype(np.float32)).astype(np.int64)
    assert bound < 2**53, "2^53 / (2^17 * 2^16) summands do not fit into memory"
    return _product(node, data.astype(np.float64), second.astype(np.float64)).astype(np.int64)


def _largest(integers: NDArray[Any]) -> float:
    return float(np.abs(integers).max(initial=0))


def _largest_sum(node: Node, second: NDArray[Any]) -> float:
    """Returns the largest sum of magnitudes of the elements of ``second`` that contribute to one output element."""
    if node.op_type in _CONVOLUTIONS:
        is_transposed = node.op_type == "ConvTranspose"
        return float(channel_sums(second, node.get("group", 1), is_transposed=is_transposed).max(initial=0))
    axis = -1 if node.get("transB", 0) or second.ndim == 1 else -2
    return float(np.abs(second.astype(np.float64)).sum(axis=axis).max(initial=0))


def _product(node: Node, data: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    if node.op_type == "Conv":
        return conv(node, data, second)
    if node.op_type == "ConvTranspose":
        return conv_transpose(node, data, second)
    if node.op_type == "MatMul":
        return np.asarray(np.matmul(data, second))
    if node.get("alpha", 1.0) != 1.0 or node.get("beta", 1.0) != 1.0:
        raise ValueError("a quantized Gemm must have alpha and beta 1.")
    return np.asarray(np.matmul(*_gemm_operands(node, data, second)))


def _gemm_operands(node: Node, data: NDArray[Any], second: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return data.T if node.get("transA", 0) else data, second.T if node.get("transB", 0) else second


def _bias_integers(node: Node, bias: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the int32 bias ``rhe(bias / step)``, computed in float64 (spec 4.4)."""
    steps = np.rint(bias / step)
    worst = steps[np.argmax(np.abs(steps))]
    if not abs(worst) <= _INT32.max:
        raise CalibrationError(f"Layer '{node.name}': a bias of {worst} steps does not fit into int32.")
    return steps.astype(np.int64)


def _int32(node: Node, sums: NDArray[np.int64]) -> NDArray[np.int32]:
    if sums.size:
        worst = max(int(sums.max()), int(sums.min()), key=abs)
        if sums.max() > _INT32.max or sums.min() < _INT32.min:
            raise CalibrationError(f"Layer '{node.name}': its accumulator overflows int32, the worst value is {worst}.")
    return sums.astype(np.int32)


def _shifted(node: Node, sums: NDArray[np.int32], shift_bit: tuple[int, ...]) -> NDArray[np.int32]:
    """Returns ``clip(floor(sums / 2^N), int16) * 2^N``; N is one value or one per channel."""
    if not shift_bit:
        return sums
    shift = _along_channels(node, np.asarray(shift_bit), sums.ndim)
    kept = np.clip(np.right_shift(sums.astype(np.int64), shift), _INT16.min, _INT16.max)
    return np.asarray(np.left_shift(kept, shift)).astype(np.int32)


def _along_channels(node: Node, vector: NDArray[Any], rank: int) -> NDArray[Any]:
    """Returns ``vector`` shaped to broadcast along the output's channels: axis 1 of images, else the last axis."""
    if vector.size == 1 or node.op_type in _PRODUCTS:
        return vector
    return vector.reshape(-1, *[1] * (rank - 2))


# --- reals ---


def _unquantized(node: Node, values: Sequence[Value | None]) -> tuple[Value, ...]:
    """Computes in float64 from float32 and returns float32."""
    arrays = [None if value is None else as_single(value).astype(np.float64) for value in values]
    if node.op_type in _MAX_POOLS:
        maxima = max_pool(node, _given(arrays[0]))
        wanted = len(node.outputs) > 1 and node.outputs[1]
        indices = (max_indices(node, _given(arrays[0]), maxima),) if wanted else ()
        return (as_single(maxima), *indices)
    if node.op_type in _AVERAGE_POOLS:
        sums, divisors = sum_pool(node, _given(arrays[0]))
        return (as_single(sums / divisors),)
    return (as_single(_real_product(node, arrays)),)


def _real_product(node: Node, arrays: Sequence[NDArray[np.float64] | None]) -> NDArray[np.float64]:
    data, second = _given(arrays[0]), _given(arrays[1])
    bias = arrays[2] if len(arrays) > 2 else None
    if node.op_type != "Gemm":
        product = _product(node, data, second)
        return product if bias is None else product + _along_channels(node, bias, product.ndim)
    data, second = _gemm_operands(node, data, second)
    product = node.get("alpha", 1.0) * np.matmul(data, second)
    return np.asarray(product if bias is None else product + node.get("beta", 1.0) * bias)


def _given(array: NDArray[np.float64] | None) -> NDArray[np.float64]:
    if array is None:
        raise ValueError("a required input is absent.")
    return array
