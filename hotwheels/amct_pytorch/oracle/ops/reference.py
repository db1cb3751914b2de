"""Rare operators, run by onnx's own NumPy reference, which computes in the type of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from ..deploy_pair import Node
from .growth import check_growth
from .registry import Array, register

# The code of these references was checked: it only moves, compares, adds or multiplies elements in the given type.
_OP_TYPES = (
    "ArgMax",
    "ArgMin",
    "Compress",
    "CumSum",
    "Einsum",
    "EyeLike",
    "Hardmax",
    "NonZero",
    "OneHot",
    "ReverseSequence",
    "ScatterElements",
    "ScatterND",
    "TopK",
    "Trilu",
    "Unique",
)


@register(*_OP_TYPES)
def _run(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    _check_growth(node, inputs)
    names = ["" if array is None else f"input_{at}" for at, array in enumerate(inputs)]
    outputs = [name and f"output_{at}" for at, name in enumerate(node.outputs)]
    proto = onnx.helper.make_node(node.op_type, names, outputs, **dict(node.attributes))
    values = [onnx.helper.make_empty_tensor_value_info(name) for name in names if name]
    results = [onnx.helper.make_empty_tensor_value_info(name) for name in outputs if name]
    graph = onnx.helper.make_graph([proto], node.op_type, values, results)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", node.opset)])
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if name}
    found = iter(ReferenceEvaluator(model).run(None, feeds))
    return [np.asarray(next(found)) if name else np.zeros(0) for name in outputs]


def _check_growth(node: Node, inputs: Sequence[Any]) -> None:
    """Raises ValueError if the result of a node that may be larger than its inputs is beyond the limit."""
    if node.op_type == "OneHot":
        check_growth((np.size(inputs[0]), int(np.reshape(inputs[1], -1)[0])), inputs)
    elif node.op_type == "TopK":
        check_growth((int(np.reshape(inputs[1], -1)[0]),), inputs)
    elif node.op_type == "Einsum":
        given, arrow, result = str(node.get("equation", "")).replace(" ", "").partition("->")
        result = result if arrow else "".join(label for label in given if given.count(label) == 1)
        pairs = (
            pair
            for term, one in zip(given.split(","), inputs, strict=False)
            for pair in zip(term, one.shape, strict=False)
        )
        sizes = dict(pairs)
        check_growth((sizes.get(label, 1) for label in result), inputs)
