"""Replaces the chip's own operators (``custom_domain``) by standard ONNX operators, for stock onnxruntime.

    LayerNorm(x, weight, bias; dim, epsilon) -> ReduceMean, Sub, Mul, ReduceMean, Add, Sqrt, Div, Mul, Add
    Gelu(x; approximate = "tanh")            -> 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
    Gelu(x; another approximate)             -> 0.5 x (1 + erf(x / sqrt(2)))
    GlobalWarp(x, grid)                      -> GridSample (nearest, border, align_corners)
    Warp(x, grid; roi)                       -> Slice, GridSample; without roi GridSample only

The node that makes the output keeps the name of the replaced node, the other nodes are ``<name>/<OpType>[_k]``, their
values ``<node>_output_0`` and the constants initializers ``<name>/<what>`` (spec 12.1).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import ExportError

CUSTOM_DOMAIN = "custom_domain"

_OLDEST_OPSET = 13
_GRID_SAMPLE_OPSET = 16
_GRID_SAMPLE_IR_VERSION = 8  # the IR version released with opset 16
_REDUCE_AXES_INPUT_OPSET = 18  # since then the axes of ReduceMean are an input


def lower_custom_domain(model: ir.Model) -> ir.passes.PassResult:
    """Replaces every ``custom_domain`` node of ``model``, in place, also inside the bodies of If, Loop and Scan.

    The opset is kept, unless a warp needs GridSample: then 13..15 becomes 16. Values that other nodes read and graph
    outputs keep their names. The import of ``custom_domain`` is removed.

    Raises:
        ExportError: An operator is unknown, the opset is below 13, or the model cannot be raised to opset 16. The
            model is then unchanged.
    """
    nodes = list(_custom_nodes(model))
    _check(model, nodes)
    opset = needed_opset(model)
    if nodes and opset != _opset(model):
        _raise_to_opset_16(model)
    for node in nodes:
        _replace(node, opset)
    modified = model.opset_imports.pop(CUSTOM_DOMAIN, None) is not None or bool(nodes)
    return ir.passes.PassResult(model, modified=modified)


def needed_opset(model: ir.Model) -> int:
    """Returns the opset that ``model`` has after lowering: its own, but at least 16 if it contains a warp."""
    has_warp = any(node.op_type in ("Warp", "GlobalWarp") for node in _custom_nodes(model))
    return max(_opset(model), _GRID_SAMPLE_OPSET) if has_warp else _opset(model)


def _opset(model: ir.Model) -> int:
    return model.opset_imports.get("", 1)


def _custom_nodes(model: ir.Model) -> Iterator[ir.Node]:
    return (node for node in ir.traversal.RecursiveGraphIterator(model.graph) if node.domain == CUSTOM_DOMAIN)


# --- checks, before anything is changed ---


def _check(model: ir.Model, nodes: Sequence[ir.Node]) -> None:
    for function in model.functions.values():
        if any(node.domain == CUSTOM_DOMAIN for node in function):
            raise ExportError(f"Function '{function.name}' contains custom_domain nodes; inline it before lowering.")
    if nodes and _opset(model) < _OLDEST_OPSET:
        raise ExportError(f"custom_domain needs opset {_OLDEST_OPSET} or later, the model has {_opset(model)}.")
    for node in nodes:
        if node.op_type not in _LOWERINGS:
            known = ", ".join(sorted(_LOWERINGS))
            raise ExportError(f"Node '{node.name}': custom_domain::{node.op_type} is unknown. Known: {known}.")
        if node.op_type == "LayerNorm":
            _trailing_axes(node)
    if needed_opset(model) != _opset(model):
        _check_raisable(model)


def _check_raisable(model: ir.Model) -> None:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        # Until opset 13 a training BatchNormalization has further outputs; opset 14 has the attribute training_mode.
        if node.domain == "" and node.op_type == "BatchNormalization" and len(node.outputs) > 1:
            raise ExportError(
                f"A warp needs opset {_GRID_SAMPLE_OPSET}, but BatchNormalization '{node.name}' is in training form, "
                f"which opset {_opset(model)} writes differently. Export with opset_version={_GRID_SAMPLE_OPSET}."
            )


def _raise_to_opset_16(model: ir.Model) -> None:
    """Sets opset 16; of the operators of opset 13 to 15 only RoiAlign changed, whose old default is written out."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain == "" and node.op_type == "RoiAlign":
            node.attributes.add(ir.AttrString("coordinate_transformation_mode", "output_half_pixel"))
    model.opset_imports[""] = _GRID_SAMPLE_OPSET
    model.ir_version = max(model.ir_version, _GRID_SAMPLE_IR_VERSION)


# --- replacement of one node ---


class _Builder:
    """Collects the nodes that replace one custom node, and names them and their constants."""

    def __init__(self, replaced: ir.Node, opset: int) -> None:
        self.replaced = replaced
        self.opset = opset
        self.nodes: list[ir.Node] = []
        self.name = replaced.name or str(replaced.outputs[0].name)
        assert isinstance(replaced.graph, ir.Graph), "custom nodes are in the main graph"
        self._graph = replaced.graph
        self._dtype = self.input(0).dtype or ir.DataType.FLOAT
        self._op_counts: Counter[str] = Counter()
        self._constants: dict[str, ir.Value] = {}

    def input(self, index: int) -> ir.Value:
        """Returns input ``index`` of the replaced node; all inputs of custom nodes are required."""
        value = self.replaced.inputs[index]
        assert value is not None
        return value

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: int | str | Sequence[int]) -> ir.Value:
        """Appends a node and returns its output."""
        count = self._op_counts[op_type]
        self._op_counts[op_type] += 1
        name = f"{self.name}/{op_type}_{count}" if count else f"{self.name}/{op_type}"
        node = ir.node(op_type, inputs, attributes, name=name)
        node.outputs[0].name = f"{name}_output_0"
        self.nodes.append(node)
        return node.outputs[0]

    def scalar(self, what: str, number: float) -> ir.Value:
        """Returns a constant of the element type of the replaced node's input."""
        return self.constant(what, np.array(number, dtype=self._dtype.numpy()))

    def constant(self, what: str, array: NDArray[Any]) -> ir.Value:
        """Returns ``array`` as an initializer of the graph; a second call with the same ``what`` returns the same."""
        if what not in self._constants:
            tensor = ir.tensor(array, name=f"{self.name}/{what}")
            self._constants[what] = ir.val(tensor.name, const_value=tensor)
            self._graph.register_initializer(self._constants[what])
        return self._constants[what]

    def finish(self) -> None:
        """Replaces the custom node by the collected nodes; the last one gets its name, output and metadata."""
        last = self.nodes[-1]
        last.name = self.name
        last.metadata_props.update(self.replaced.metadata_props)
        ir.convenience.replace_nodes_and_values(
            self._graph, self.replaced, [self.replaced], self.nodes, self.replaced.outputs, last.outputs
        )


def _replace(node: ir.Node, opset: int) -> None:
    builder = _Builder(node, opset)
    inputs = tuple(node.inputs)
    _LOWERINGS[node.op_type](builder)
    builder.finish()
    _remove_unused_constants(inputs)


def _remove_unused_constants(values: Sequence[ir.Value | None]) -> None:
    for value in values:
        if value is None or value.uses() or value.is_graph_output():
            continue
        producer, graph = value.producer(), value.graph
        if value.is_initializer() and not value.is_graph_input():
            assert graph is not None and value.name is not None
            del graph.initializers[value.name]
        elif producer is not None and producer.op_type == "Constant" and producer.graph is not None:
            producer.graph.remove(producer, safe=True)


def _lower_layer_norm(builder: _Builder) -> None:
    x, weight, bias = (builder.input(index) for index in range(3))
    dim = builder.replaced.attributes["dim"].as_int()
    centred = builder.op("Sub", x, _mean(builder, x, dim))
    variance = _mean(builder, builder.op("Mul", centred, centred), dim)
    epsilon = builder.scalar("epsilon", builder.replaced.attributes["epsilon"].as_float())
    deviation = builder.op("Sqrt", builder.op("Add", variance, epsilon))
    scaled = builder.op("Mul", builder.op("Div", centred, deviation), _along(builder, "weight", weight))
    builder.op("Add", scaled, _along(builder, "bias", bias))


def _mean(builder: _Builder, x: ir.Value, dim: int) -> ir.Value:
    if builder.opset < _REDUCE_AXES_INPUT_OPSET:
        return builder.op("ReduceMean", x, axes=[dim], keepdims=1)
    axes = builder.constant("axes", np.array([dim], dtype=np.int64))
    return builder.op("ReduceMean", x, axes, keepdims=1)


def _along(builder: _Builder, what: str, vector: ir.Value) -> ir.Value:
    """Returns ``vector`` (C,) as (C, 1, ..., 1), so that it broadcasts along the normalised axis."""
    trailing = _trailing_axes(builder.replaced)
    if not trailing:
        return vector
    tensor = ir.convenience.get_const_tensor(vector)
    if tensor is not None:
        return builder.constant(what, tensor.numpy().reshape(-1, *[1] * trailing))
    shape = builder.constant(f"{what}_shape", np.array([-1] + [1] * trailing, dtype=np.int64))
    return builder.op("Reshape", vector, shape)


def _trailing_axes(layer_norm: ir.Node) -> int:
    """Returns the number of axes behind the normalised axis; raises ExportError if that is not known."""
    dim = layer_norm.attributes["dim"].as_int()
    if dim < 0:
        return -dim - 1
    x = layer_norm.inputs[0]
    shape = layer_norm.outputs[0].shape if x is None or x.shape is None else x.shape
    if shape is None:
        raise ExportError(
            f"LayerNorm '{layer_norm.name}' has dim {dim}, but the rank of its input is unknown. Give the axis as a "
            f"negative number or run ONNX shape inference first."
        )
    return len(shape) - 1 - dim


def _lower_gelu(builder: _Builder) -> None:
    x = builder.input(0)
    approximate = builder.replaced.attributes.get_string("approximate", "tanh")
    bent = _tanh_of_cubic(builder, x) if approximate == "tanh" else _erf_of_scaled(builder, x)
    doubled = builder.op("Mul", x, builder.op("Add", bent, builder.scalar("one", 1.0)))
    builder.op("Mul", doubled, builder.scalar("half", 0.5))


def _tanh_of_cubic(builder: _Builder, x: ir.Value) -> ir.Value:
    cube = builder.op("Mul", builder.op("Mul", x, x), x)
    # 0.044715 and sqrt(2 / pi): Hendrycks & Gimpel, Gaussian Error Linear Units, 2016
    inner = builder.op("Add", x, builder.op("Mul", cube, builder.scalar("cubic", 0.044715)))
    return builder.op("Tanh", builder.op("Mul", inner, builder.scalar("slope", math.sqrt(2 / math.pi))))


def _erf_of_scaled(builder: _Builder, x: ir.Value) -> ir.Value:
    return builder.op("Erf", builder.op("Div", x, builder.scalar("sqrt2", math.sqrt(2))))


def _lower_global_warp(builder: _Builder) -> None:
    x, grid = builder.input(0), builder.input(1)
    builder.op("GridSample", x, grid, mode="nearest", padding_mode="border", align_corners=1)


def _lower_warp(builder: _Builder) -> None:
    x, grid = builder.input(0), builder.input(1)
    roi = builder.replaced.attributes.get_ints("roi")
    if roi is not None:
        left, top, right, bottom = roi
        bounds = {"starts": [top, left], "ends": [bottom, right], "axes": [2, 3]}
        constants = [builder.constant(what, np.array(pair, dtype=np.int64)) for what, pair in bounds.items()]
        x = builder.op("Slice", x, *constants)
    builder.op("GridSample", x, grid, mode="nearest", padding_mode="border", align_corners=1)


_LOWERINGS: dict[str, Callable[[_Builder], None]] = {
    "LayerNorm": _lower_layer_norm,
    "Gelu": _lower_gelu,
    "GlobalWarp": _lower_global_warp,
    "Warp": _lower_warp,
}
