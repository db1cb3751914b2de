"""QuantizeLinear and DequantizeLinear nodes: pairs for quantized tensors, DequantizeLinear alone for constants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..core.spec import QuantSpec
from ..onnx_io.initializers import add_initializer
from ..onnx_io.node_access import graph_of, result
from ..record.record import ActivationRecord
from .layers import InputRead

_OUTPUT_TYPE_OPSET = 21  # since then QuantizeLinear has an attribute output_dtype
_HALF_OF_UINT8 = 128


def storage_type(num_bits: int) -> ir.DataType:
    """Returns the narrowest ONNX integer that holds ``num_bits`` bits."""
    return ir.DataType.INT4 if num_bits == 4 else ir.DataType.INT8 if num_bits == 8 else ir.DataType.INT16


def add_integers(graph: ir.Graph, name: str, integers: NDArray[np.integer], dtype: ir.DataType) -> ir.Value:
    """Returns a new initializer of ``integers`` stored as ``dtype``."""
    return add_initializer(graph, name, integers.astype(dtype.numpy()))


def make_node(op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: int | Sequence[int]) -> ir.Node:
    """Returns a node with one output, called ``<name>_output_0``."""
    node = ir.node(op_type, inputs, attributes, name=name)
    result(node).name = f"{name}_output_0"
    return node


def dequantize_constant(
    before: ir.Node,
    name: str,
    integers: ir.TensorProtocol,
    scale: NDArray[np.float32],
    axis: int | None,
) -> ir.Value:
    """Returns the real values of ``integers``, made by a new node ``<name>.dequant`` in front of ``before``.

    The zero point is absent, which means 0. ``axis`` is the axis of a vector of scales, None for a scalar.
    """
    graph = graph_of(before)
    inputs = [add_initializer(graph, f"{name}.quantized", integers), add_initializer(graph, f"{name}.scale", scale)]
    attributes = {} if axis is None else {"axis": axis}
    node = make_node("DequantizeLinear", inputs, f"{name}.dequant", **attributes)
    _describe(node, ir.TensorType(ir.DataType.FLOAT), ir.Shape(integers.shape.numpy()))
    graph.insert_before(before, node)
    return result(node)


def _describe(node: ir.Node, type_: ir.TypeProtocol | None, shape: ir.Shape | None) -> None:
    """Sets type and shape of the node's result: `lower_custom_domain` needs the rank."""
    result(node).type, result(node).shape = type_, shape


class QuantizedTensors:
    """The Quantize/Dequantize pairs of a graph; readers of one tensor on one grid share a pair.

    From opset 21 on, 8-bit integers are stored as uint8, with 128 added to integers and zero point: the same real
    values. With int8, onnxruntime converts to uint8 itself, but does not update the output type that QuantizeLinear
    states since opset 21, and then refuses its own graph (onnxruntime 1.32, a pooling, Transpose or Reshape behind the
    pair).
    """

    def __init__(self, graph: ir.Graph, opset: int) -> None:
        """Starts without pairs. ``opset`` is the opset of ``graph``."""
        self._graph = graph
        self._is_unsigned = opset >= _OUTPUT_TYPE_OPSET
        self._made: dict[tuple[ir.Value, float, int, int], ir.Value] = {}

    def of(self, layer: str, read: InputRead) -> ir.Value:
        """Returns the fake-quantized form of the value of ``read``; a new pair is named after ``layer``."""
        grid, value = read.grid, read.value
        key = (value, grid.scale, grid.offset, grid.num_bits)
        if key not in self._made:
            nodes = self._nodes(f"{layer}.input{grid.index}", value, grid)
            self._insert_behind(value, nodes)
            self._made[key] = result(nodes[-1])
        return self._made[key]

    def _nodes(self, name: str, value: ir.Value, grid: ActivationRecord) -> list[ir.Node]:
        dtype, offset = storage_type(grid.num_bits), grid.offset
        if self._is_unsigned and dtype is ir.DataType.INT8:
            dtype, offset = ir.DataType.UINT8, offset + _HALF_OF_UINT8
        scale = add_initializer(self._graph, f"{name}.scale", np.array(grid.scale, dtype=np.float32))
        zero_point = add_integers(self._graph, f"{name}.zero_point", np.array(offset), dtype)
        clips = [] if grid.num_bits in (4, 8, 16) else [self._clip(name, value, grid)]
        source = result(clips[0]) if clips else value
        quant = make_node("QuantizeLinear", [source, scale, zero_point], f"{name}.quant")
        dequant = make_node("DequantizeLinear", [result(quant), scale, zero_point], f"{name}.dequant")
        _describe(quant, ir.TensorType(dtype), value.shape)
        _describe(dequant, value.type, value.shape)
        return [*clips, quant, dequant]

    def _clip(self, name: str, value: ir.Value, grid: ActivationRecord) -> ir.Node:
        """Returns a Clip of the real values to the ends of the grid, for 9 to 15 bits.

        The integers are int16, which saturates at 16 bits only, and stock onnxruntime has no Clip of int16.
        """
        spec, scale = QuantSpec(num_bits=grid.num_bits), np.float32(grid.scale)
        low = add_initializer(self._graph, f"{name}.low", np.array(np.float32(spec.qmin - grid.offset) * scale))
        high = add_initializer(self._graph, f"{name}.high", np.array(np.float32(spec.qmax - grid.offset) * scale))
        node = make_node("Clip", [value, low, high], f"{name}.clip")
        _describe(node, value.type, value.shape)
        return node

    def _insert_behind(self, value: ir.Value, nodes: list[ir.Node]) -> None:
        """Inserts ``nodes`` directly behind the producer of ``value``, or at the start for a graph input."""
        producer = value.producer()
        if producer is not None:
            self._graph.insert_after(producer, nodes)
        else:
            self._graph.insert_before(self._graph[0], nodes)
