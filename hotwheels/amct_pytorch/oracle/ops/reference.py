"""Rare operators, run by onnx's own NumPy reference, which computes in the type of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from ..deploy_pair import Node
from .registry import Array, register

# The code of these references was checked: it only moves, compares, adds or multiplies elements in the given type.
OP_TYPES = (
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


@register(*OP_TYPES)
def _run(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
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
