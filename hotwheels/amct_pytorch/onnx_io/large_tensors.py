"""Models without their large initializers, since serializing a model copies it and fails above 2 GB."""

from __future__ import annotations

import onnx_ir as ir


def take_large_tensors(model: ir.Model, smallest: int) -> dict[str, ir.TensorProtocol]:
    """Replaces initializers of ``smallest`` bytes or more by inputs, in place; returns their tensors by name."""
    graph, tensors = model.graph, dict[str, ir.TensorProtocol]()
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or tensor.nbytes < smallest or tensor.dtype == ir.DataType.STRING:
            continue
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        del graph.initializers[name]
        value.const_value = None
        graph.inputs.append(value)
        tensors[name] = tensor
    return tensors


def put_back(graph: ir.Graph, tensors: dict[str, ir.TensorProtocol]) -> None:
    """Replaces the inputs named in ``tensors`` by initializers, in place."""
    for value in [value for value in graph.inputs if value.name in tensors]:
        graph.inputs.remove(value)
        value.const_value = tensors[str(value.name)]
        graph.register_initializer(value)
