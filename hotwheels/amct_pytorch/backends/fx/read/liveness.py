"""Which nodes contribute to the model's outputs; the others are in no exported file."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from ...real_quant.known import is_known
from ..rewrite.functionalize import is_in_place


def live_nodes(graph_module: GraphModule) -> frozenset[Node]:
    """Returns the nodes which the output depends on, or which may change memory or do anything else behind our back."""
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
