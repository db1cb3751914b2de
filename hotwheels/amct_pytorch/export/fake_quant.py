"""The fake_quant model: the float model with QuantizeLinear/DequantizeLinear pairs, for stock onnxruntime (spec 11.5).

    quantized input:  x -> [Clip, for 9..15 bits] -> QuantizeLinear -> DequantizeLinear -> node
    weight:           integers -> DequantizeLinear -> node
    bias:             int32 -> DequantizeLinear (scale s_x * s_w) -> node

Inputs that read the same tensor on the same grid share a pair.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ..onnx_io.custom_domain import lower_custom_domain
from ..onnx_io.initializers import add_initializer
from ..onnx_io.layer_sites import LayerSite
from ..onnx_io.node_access import graph_of, result
from ..onnx_io.opset import opset_of, raise_opset
from ..record.record import LayerRecord, Record, WeightRecord
from .layers import WeightRead, copy_model, find_layers, finish
from .qdq import QuantizedTensors, dequantize_constant, make_node, storage_type
from .quantized_constants import bias_scale, output_first, shape_of

_INT8_OPSET = 13  # the first with a per-axis DequantizeLinear
_INT4_INT16_OPSET = 21


def build_fake_quant(float_model: ir.Model, sites: Mapping[str, LayerSite], record: Record) -> ir.Model:
    """Returns a copy of ``float_model`` in which the layers of ``record`` compute on fake-quantized values.

    The opset is that of ``float_model``, at least 13, and at least 21 with int16 or int4 (spec 11.5). Standard
    operators replace those of ``custom_domain``.

    Raises:
        ExportError: The record does not fit the model, or the model cannot be raised to opset 21.
    """
    model = copy_model(raise_opset(float_model, needed_opset(record)))
    tensors = QuantizedTensors(model.graph, opset_of(model))
    for layer in find_layers(model, sites, record):
        for read in layer.reads:
            read.replace(tensors.of(layer.name, read))
        if layer.weight:
            _quantize_operands(layer.node, layer.weight)
    lower_custom_domain(model)
    return finish(model)


def needed_opset(record: Record) -> int:
    """Returns the lowest opset whose QuantizeLinear has the integer types of ``record``."""
    return _INT4_INT16_OPSET if any(map(_needs_int4_or_int16, record.layers.values())) else _INT8_OPSET


def _needs_int4_or_int16(layer: LayerRecord) -> bool:
    is_int4 = layer.weight is not None and _weight_bits(layer.weight) == 4
    return is_int4 or any(grid.num_bits != 8 for grid in layer.activations)


def _weight_bits(weight: WeightRecord) -> int:
    """Returns the width of the stored integers; a codebook stores int8 (spec 6.3)."""
    return 8 if weight.codebook else weight.num_bits


def _quantize_operands(node: ir.Node, weight: WeightRead) -> None:
    """Replaces weight and bias of ``node`` by dequantized integers."""
    node.replace_input_with(1, _dequantized_weight(node, weight))
    if weight.bias is not None and weight.data_scale is not None:
        scale = bias_scale(weight.data_scale, weight.record.scale)
        axis = 0 if scale.ndim else None
        integers = ir.Tensor(weight.bias_integers())
        bias = dequantize_constant(node, f"{weight.layer}.bias", integers, scale, axis)
        node.replace_input_with(2, bias)


def _dequantized_weight(node: ir.Node, weight: WeightRead) -> ir.Value:
    name, integers, dtype = f"{weight.layer}.weight", weight.integers(), storage_type(_weight_bits(weight.record))
    scale = np.array(weight.record.scale, dtype=np.float32)
    if scale.size == 1:
        return dequantize_constant(node, name, integers.tensor(dtype), scale.reshape(()), None)
    if weight.groups == 1:
        return dequantize_constant(node, name, integers.tensor(dtype), scale, weight.channel_axis)
    # The output channels of a grouped ConvTranspose are spread over two axes; DequantizeLinear takes one axis.
    by_output = ir.Tensor(output_first(integers.all(), weight.groups).astype(dtype.numpy()), dtype=dtype)
    first = dequantize_constant(node, name, by_output, scale, 0)
    return _operator_layout(node, name, first, weight)


def _operator_layout(node: ir.Node, name: str, value: ir.Value, weight: WeightRead) -> ir.Value:
    """Returns the result of new nodes that turn (out, in/G, kH, kW) back into (in, out/G, kH, kW)."""
    inputs, outputs, *kernel = shape_of(weight.array)
    groups, graph = weight.groups, graph_of(node)
    by_group = np.array([groups, outputs, inputs // groups, *kernel], dtype=np.int64)
    merged = np.array([inputs, outputs, *kernel], dtype=np.int64)
    perm = (0, 2, 1, *range(3, 3 + len(kernel)))
    first = make_node("Reshape", [value, add_initializer(graph, f"{name}.by_group", by_group)], f"{name}.split")
    second = make_node("Transpose", [result(first)], f"{name}.transpose", perm=perm)
    third = make_node("Reshape", [result(second), add_initializer(graph, f"{name}.shape", merged)], f"{name}.merge")
    graph.insert_before(node, [first, second, third])
    return result(third)
