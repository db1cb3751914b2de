"""Finds the nodes that contribute to the model's outputs; exported files leave out all others."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from ...real_quant.known import is_known
from ..rewrite.functionalize import is_in_place


def live_nodes(graph_module: GraphModule) -> frozenset[Node]:
    """Returns the nodes on which the output depends, and nodes that may change memory or have other side effects."""
    found: set[Node] = set()
    waiting = [node for node in graph_module.graph.nodes if _has_effect(node, graph_module)]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return frozenset(found)


def _has_effect(node: Node, graph_module: GraphModule) -> bool:
    if node.op == "output" or is_in_place(node, graph_module):
        return True
    return node.op == "call_function" and not is_known(node.target)
