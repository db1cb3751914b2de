"""Access to parts of a node that onnx_ir types as optional, for callers that know that they exist."""

from __future__ import annotations

import onnx_ir as ir


def graph_of(node: ir.Node) -> ir.Graph:
    """Returns the graph that contains ``node``."""
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def operand(node: ir.Node, position: int) -> ir.Value:
    """Returns input ``position`` of ``node``, which must not be an omitted optional input."""
    value = node.inputs[position]
    assert value is not None
    return value


def result(node: ir.Node) -> ir.Value:
    """Returns the first output of ``node``."""
    return node.outputs[0]


def producers(node: ir.Node) -> list[ir.Node]:
    """Returns the nodes that make the inputs of ``node``, one per input, in input order."""
    found = [value.producer() for value in node.inputs if value is not None]
    return [producer for producer in found if producer is not None]


def readers(node: ir.Node) -> list[ir.Node]:
    """Returns the nodes of the same graph that read an output of ``node``, one entry per reading input."""
    return [use.node for value in node.outputs for use in value.uses() if use.node.graph is node.graph]
