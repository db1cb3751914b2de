"""Names of the nodes of an ONNX graph: from the layers; other nodes keep the exporter's names (spec 11.3, 9.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from .initializers import NameGiver


def name_nodes(
    model: ir.Model, layers: Mapping[str, tuple[ir.Node, Sequence[ir.Node]]], suffixes: Mapping[str, str]
) -> None:
    """Names every node of ``model``, in place, so that all names differ.

    Args:
        model: The model.
        layers: For each layer name the node that gets this name, and all nodes of the layer.
        suffixes: Op type -> suffix to the layer's name for further nodes of this type.
    """
    given: dict[ir.Node, str] = {main: layer for layer, (main, _) in layers.items()}
    taken = NameGiver()
    taken.reserve(given.values())
    for layer, (main, nodes) in layers.items():
        for node, name in _inner_names(layer, [node for node in nodes if node is not main], suffixes):
            given[node] = taken.give(name)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        node.name = given[node] if node in given else taken.give(node.name or node.op_type)


def name_values(model: ir.Model) -> None:
    """Names the results of nodes of ``model`` after the nodes, in place; not inputs, outputs and constants."""
    kept = {*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()}
    names = NameGiver()
    names.reserve(str(value.name) for value in kept)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for index, value in enumerate(node.outputs):
            if value not in kept and value.name != "":  # an empty name is an omitted optional output
                value.name = names.give(f"{node.name}_output_{index}")


def _inner_names(layer: str, nodes: Sequence[ir.Node], suffixes: Mapping[str, str]) -> list[tuple[ir.Node, str]]:
    counts: Counter[str] = Counter()
    names = []
    for node in nodes:
        stem = layer + suffixes[node.op_type] if node.op_type in suffixes else f"{layer}/{node.op_type}"
        names.append((node, f"{stem}_{counts[stem]}" if counts[stem] else stem))
        counts[stem] += 1
    return names
