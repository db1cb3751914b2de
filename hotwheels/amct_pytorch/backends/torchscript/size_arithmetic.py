"""Folds computations on known sizes in an exported model into constants.

    Shape(x) -> s, the shape of x being known : s becomes an initializer
    Op(initializers) -> y, few elements       : y becomes an initializer

A padding computed from the size of the image (``-(-h // stride)``) leaves dozens of such nodes. The exporter does not
know the shape behind such a padding, so shapes are inferred again on the way.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from ...onnx_io.initializers import add_initializer, constant_of
from ...onnx_io.node_access import graph_of, operand, result
from .marker_sites import MARKER_DOMAIN

_MOST = 64  # largest number of elements of an operand or result
_NOT_PURE = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def fold_size_arithmetic(model: ir.Model) -> None:
    """Applies the rules above to the nodes of ``model``, in place.

    Shapes that are inferred on the way are forgotten at the end: later passes would leave them behind unchanged.
    """
    without_shape = [one for node in model.graph for one in node.outputs if one.shape is None]
    for node in list(model.graph):
        if node.domain == MARKER_DOMAIN and _is_known(operand(node, 0)):
            result(node).shape = operand(node, 0).shape
        if node.domain != "" or len(node.outputs) != 1 or result(node).is_graph_output() or node.op_type in _NOT_PURE:
            continue
        _infer_shape(node, model)
        array = _known_shape(node) if node.op_type == "Shape" else _computed(node, model)
        if array is not None and array.size <= _MOST:
            constant = add_initializer(graph_of(node), str(result(node).name), array)
            ir.convenience.replace_all_uses_with(result(node), constant)
            graph_of(node).remove(node, safe=True)
    for one in without_shape:
        one.shape = None


def _is_known(value: ir.Value) -> bool:
    return value.shape is not None and all(isinstance(size, int) for size in value.shape)


def _infer_shape(node: ir.Node, model: ir.Model) -> None:
    """Sets the shape of the result of ``node``, if it is not known and those of its operands are."""
    given = [value for value in node.inputs if value is not None]
    if _is_known(result(node)) or not given or not all(_is_known(value) and value.type for value in given):
        return
    version = model.opset_imports[""]
    proto = ir.to_proto(node)
    types = {str(value.name): ir.to_proto(value).type for value in given}
    small = {str(value.name): constant_of(value) for value in given if value.shape is not None and _is_small(value)}
    data = {name: onnx.numpy_helper.from_array(array) for name, array in small.items() if array is not None}
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
        found = onnx.shape_inference.infer_node_outputs(
            schema, proto, types, data, opset_imports=[onnx.helper.make_opsetid("", version)]
        )
    except (RuntimeError, onnx.shape_inference.InferenceError, onnx.defs.SchemaError):
        return
    inferred = found.get(str(result(node).name))
    if inferred is not None and inferred.tensor_type.HasField("shape"):
        sizes = [one.dim_value if one.HasField("dim_value") else None for one in inferred.tensor_type.shape.dim]
        result(node).shape = ir.Shape(sizes)


def _is_small(value: ir.Value) -> bool:
    return value.shape is not None and math.prod(value.shape.numpy()) <= _MOST


def _known_shape(node: ir.Node) -> NDArray[Any] | None:
    x = operand(node, 0)
    if not _is_known(x) or node.attributes:
        return None
    return np.array(x.shape.numpy(), dtype=np.int64)  # type: ignore[union-attr]


def _computed(node: ir.Node, model: ir.Model) -> NDArray[Any] | None:
    """Returns the result of a node on small constants; None for any other node."""
    if not node.inputs or any(one.type == ir.AttributeType.GRAPH for one in node.attributes.values()):
        return None
    arrays = [None if value is None else constant_of(value) for value in node.inputs]
    given = [array for array in arrays if array is not None]
    if len(given) < sum(value is not None for value in node.inputs) or any(array.size > _MOST for array in given):
        return None
    names = ["" if array is None else f"input_{at}" for at, array in enumerate(arrays)]
    attributes = {name: _value(one) for name, one in node.attributes.items()}
    proto = onnx.helper.make_node(node.op_type, names, ["output"], **attributes)
    values = [onnx.helper.make_empty_tensor_value_info(name) for name in (*filter(None, names), "output")]
    graph = onnx.helper.make_graph([proto], node.op_type, values[:-1], values[-1:])
    opset = onnx.helper.make_opsetid("", model.opset_imports[""])
    try:
        feeds = {name: array for name, array in zip(names, arrays, strict=True) if name}
        (found,) = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[opset])).run(None, feeds)
    except (NotImplementedError, RuntimeError, TypeError, ValueError):  # the reference does not know the operation
        return None
    return np.asarray(found)


def _value(attribute: ir.Attr) -> Any:
    if attribute.type == ir.AttributeType.TENSOR:
        return ir.to_proto(attribute.as_tensor())
    return attribute.value
