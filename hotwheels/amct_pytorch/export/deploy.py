"""The deploy pair: a float-typed ONNX whose weights are integers, and the grids of all its nodes (spec 11.3, 11.4)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from ..onnx_io.initializers import add_initializer, constant_of
from ..onnx_io.layer_sites import LayerSite
from ..onnx_io.node_access import graph_of
from ..record.calibration_param import CalibrationParam, DataType, FactorParam, LayerParam
from ..record.record import ActivationRecord, Record, WeightRecord
from .layers import ExportLayer, InputRead, WeightRead, copy_model, find_layers, finish
from .quantized_constants import bias_on_grid, fake_quantize

DEPLOY_KEY = "amct.deploy.v1"

_FLOAT_INPUT = FactorParam(data_type=DataType.F16, scale=(1.0,), offset=(0.0,))
_FLOAT_BITS = 16  # num_bits_d of an input that stays in float: the width of F16

_PRODUCT = "MatMul"

_Grids = Mapping[tuple[ir.Node, int], ActivationRecord]


def build_deploy(
    float_model: ir.Model, sites: Mapping[str, LayerSite], record: Record
) -> tuple[ir.Model, CalibrationParam]:
    """Returns a copy of ``float_model`` with integer-valued float32 weights, and the parameters of its nodes.

    Biases are in real units, at their grid points; ``custom_domain`` operators are kept. The model's metadata hold what
    the parameters cannot express: widths of 9 to 15 bits and the shift N (spec 11.3).

    Raises:
        ExportError: The record does not fit the model.
    """
    model = copy_model(float_model)
    layers = find_layers(model, sites, record)
    _store_integer_weights(layers)
    _store_biases_on_grid(layers)
    grids = {(read.node, read.position): read.grid for layer in layers for read in (*layer.reads, *_opened(layer))}
    by_node = {layer.node: _with_constant_operand(layer) for layer in layers}
    _quantize_constants([read for layer in layers for read in layer.reads])
    finish(model)
    model.metadata_props[DEPLOY_KEY] = json.dumps({"layers": _metadata(model.graph, grids, by_node)})
    params = (_layer_param(node, grids, by_node.get(node)) for node in model.graph if activation_positions(node))
    return model, CalibrationParam(layers=tuple(params))


def activation_positions(node: ir.Node) -> tuple[int, ...]:
    """Returns the positions of the inputs that are not initializers: one LayerParam input each (spec 11.4)."""
    return tuple(at for at, value in enumerate(node.inputs) if value is not None and not value.is_initializer())


def _opened(layer: ExportLayer) -> list[InputRead]:
    """Returns the reads of the inputs of ``layer`` behind an Unsqueeze inside it; they have the inputs' grids."""
    found: list[InputRead] = []
    waiting = list(layer.reads)
    while waiting:
        read = waiting.pop()
        if read.node is not layer.node and read.node.op_type == "Unsqueeze":
            uses = read.node.outputs[0].uses()
            waiting += [dataclasses.replace(read, node=use.node, position=use.idx) for use in uses]
            found += waiting[-len(uses) :]
    return found


# --- the model ---


def _store_integer_weights(layers: Iterable[ExportLayer]) -> None:
    """Replaces the weights by their integers; layers that share a weight and its grid still share the result."""
    made: dict[tuple[ir.Value | None, int, int, WeightRecord], ir.Value] = {}
    for layer in layers:
        if (weight := layer.weight) is None:
            continue
        key = (layer.node.inputs[1], weight.channel_axis, weight.groups, weight.record)
        if key not in made:
            integers = weight.integers().tensor(ir.DataType.FLOAT)
            made[key] = add_initializer(graph_of(layer.node), f"{layer.name}.weight.quantized", integers)
        layer.node.replace_input_with(1, made[key])


def _store_biases_on_grid(layers: Iterable[ExportLayer]) -> None:
    """Replaces biases by their grid points, so that a division by the scales gives the same integers.

    Beyond 2^23 steps a grid point may not be a float32; such a bias is kept, since its division gives the integer too.
    """
    for layer in layers:
        weight = layer.weight
        if weight is None or weight.bias is None or weight.data_scale is None:
            continue
        on_grid = bias_on_grid(weight.bias, weight.bias_integers(), weight.data_scale, weight.record.scale)
        layer.node.replace_input_with(2, add_initializer(graph_of(layer.node), f"{layer.name}.bias.quantized", on_grid))


def _quantize_constants(reads: Iterable[InputRead]) -> None:
    """Replaces constants that are quantized like activations by their grid points, as they have no parameters.

    The constant of a product is a weight for the chip, so it is replaced by its integers.
    """
    for read in reads:
        array = constant_of(read.value)
        if array is not None:
            name = f"{read.node.name}.input{read.position}.quantized"
            points = fake_quantize(array, read.grid)
            if read.node.op_type == _PRODUCT:
                points = np.rint(points / np.float32(read.grid.scale))
            read.replace(add_initializer(graph_of(read.node), name, points))


def _with_constant_operand(layer: ExportLayer) -> ExportLayer:
    """Returns ``layer`` with the constant operand of a product as its weight; other layers are returned unchanged."""
    if layer.node.op_type != _PRODUCT or layer.weight is not None:
        return layer
    for read in layer.reads:
        array = constant_of(read.value)
        if array is not None and read.grid.offset == 0:
            record = WeightRecord(scale=(read.grid.scale,), num_bits=read.grid.num_bits)
            weight = WeightRead(
                layer=layer.name,
                array=array.astype(np.float32, copy=False),
                channel_axis=read.position,
                groups=1,
                record=record,
                bias=None,
                data_scale=None,
            )
            return dataclasses.replace(layer, weight=weight)
    return layer


# --- the parameters ---


def _layer_param(node: ir.Node, grids: _Grids, layer: ExportLayer | None) -> LayerParam:
    inputs = tuple(
        _input_factor(grids[node, at]) if (node, at) in grids else _FLOAT_INPUT for at in activation_positions(node)
    )
    weight = _weight_factor(layer.weight) if layer and layer.weight else None
    return LayerParam(name=str(node.name), calc_data_type=inputs[0].data_type, inputs=inputs, weight=weight)


def _input_factor(grid: ActivationRecord) -> FactorParam:
    return FactorParam(
        data_type=_data_type(grid.num_bits), scale=_reciprocals(grid.scale), offset=(float(grid.offset),)
    )


def _weight_factor(weight: WeightRead) -> FactorParam:
    record = weight.record
    return FactorParam(
        data_type=DataType.S4 if record.codebook else _data_type(record.num_bits),
        scale=_reciprocals(*record.scale),
        offset=(0.0,) * len(record.scale),
        params=np.array(record.codebook, dtype=np.int8).tobytes() if record.codebook else None,
    )


def _data_type(num_bits: int) -> DataType:
    return DataType.S4 if num_bits == 4 else DataType.S8 if num_bits == 8 else DataType.S16


def _reciprocals(*steps: float) -> tuple[float, ...]:
    return tuple((np.float32(1.0) / np.array(steps, dtype=np.float32)).tolist())


def _metadata(graph: ir.Graph, grids: _Grids, by_node: Mapping[ir.Node, ExportLayer]) -> dict[str, dict[str, object]]:
    """Returns an entry for each node that has a quantized input or weight, in graph order."""
    entries = {str(node.name): _node_metadata(node, grids, by_node.get(node)) for node in graph}
    return {name: entry for name, entry in entries.items() if entry}


def _node_metadata(node: ir.Node, grids: _Grids, layer: ExportLayer | None) -> dict[str, object]:
    entry: dict[str, object] = {}
    found = [grids.get((node, at)) for at in activation_positions(node)]
    if any(found):
        entry["num_bits_d"] = [grid.num_bits if grid else _FLOAT_BITS for grid in found]
    if layer and layer.weight:
        entry["num_bits_w"] = layer.weight.record.num_bits
    if layer and any(layer.record.shift_bit):
        entry["shift_bit"] = list(layer.record.shift_bit)
    return entry
