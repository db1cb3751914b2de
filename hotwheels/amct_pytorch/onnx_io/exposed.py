"""An ONNX model whose inner results are outputs too, so that a runtime returns the result of every layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx

from ..errors import ModelFileError
from ..files import PathLike
from .proto_file import read_proto

_QDQ = ("QuantizeLinear", "DequantizeLinear")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExposedModel:
    """A model with additional outputs.

    Attributes:
      content: The model with the additional outputs.
      results: Value name by layer name, in graph order: see `first_results`.
      steps: By layer name: scale of the grid on which the layer's result is quantized.
    """

    content: bytes
    results: dict[str, str]
    steps: dict[str, float]


def expose_results(path: PathLike, *, only_quantized: bool = False) -> ExposedModel:
    """Returns the model in ``path`` with the first result of every layer as an output.

    ``only_quantized``: the outputs are the integers of the QuantizeLinear behind a layer instead, and layers without
    one have no output; so a runtime can still replace nodes by integer kernels.
    """
    model = read_proto(path)
    nodes = [node for node in model.graph.node if node.output]
    read = [one.name for one in model.graph.output]
    read += [value for node in nodes if _is_quantization(node) for value in node.input]
    plain = [(node.name, node.input, node.output) for node in nodes if not _is_quantization(node)]
    results = first_results(plain, read)
    quantizers = {node.input[0]: node for node in nodes if node.op_type == _QDQ[0] and node.input}
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    try:
        scales = {value: float(constants[node.input[1]]) for value, node in quantizers.items()}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelFileError(f"'{path}' has a QuantizeLinear whose scale is not one constant number.") from error
    steps = {name: scales[value] for name, value in results.items() if value in scales}
    if only_quantized:
        results = {name: quantizers[value].output[0] for name, value in results.items() if value in quantizers}
    known = {one.name for one in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in results.values() if value not in known)
    return ExposedModel(content=model.SerializeToString(), results=results, steps=steps)


def zero_points(path: Path) -> dict[str, int]:
    """Returns the zero point of each QuantizeLinear of a model, by the name of its result."""
    model = read_proto(path)
    constants = {one.name: one for one in model.graph.initializer}
    try:
        return {
            node.output[0]: int(onnx.numpy_helper.to_array(constants[node.input[2]]))
            for node in model.graph.node
            if node.op_type == _QDQ[0]
        }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelFileError(f"'{path}' has a QuantizeLinear whose zero point is not one constant.") from error


def layer_of(node_name: str) -> str:
    """Returns the layer of a node: ``fc`` for ``fc`` and ``fc/Add``, ``mul_6`` for ``/mul_6/Mul``."""
    if not node_name.startswith("/"):
        return node_name.partition("/")[0]
    parts = node_name.strip("/").split("/")
    return parts[0] if len(parts) <= 2 else node_name  # deeper names are whole paths of modules


def first_results(nodes: Iterable[tuple[str, Sequence[str], Sequence[str]]], read: Iterable[str]) -> dict[str, str]:
    """Returns the value that is the first result of each layer, by layer name, in the order of the nodes.

    That is the first output of the layer's first node of which another layer reads something; of its last node, if no
    other layer reads any.

    Args:
      nodes: Name, inputs and outputs of each node.
      read: Values that are read by other things than these nodes, such as the outputs of the model.
    """
    layers: dict[str, list[Sequence[str]]] = {}
    readers: dict[str, set[str]] = {value: {""} for value in read}
    for name, inputs, outputs in nodes:
        layer = layer_of(name)
        layers.setdefault(layer, []).append(outputs)
        for value in inputs:
            readers.setdefault(value, set()).add(layer)
    return {
        layer: next((one for one in made if any(readers.get(value, set()) - {layer} for value in one)), made[-1])[0]
        for layer, made in layers.items()
    }


def _is_quantization(node: onnx.NodeProto) -> bool:
    # The Clip in front of a QuantizeLinear for 9 to 15 bits, and the nodes behind the weights, are named with a dot.
    return node.op_type in _QDQ or "." in node.name.rpartition("/")[2]
