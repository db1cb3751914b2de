"""Finds nodes that compute from parameters and buffers only: their results are constants of every exported file.

They are evaluated once, in float32, both before the export (which might or might not fold them by itself) and in
real_quant. So the integer network uses the constant in the file.
"""

from __future__ import annotations

from torch import fx

from ...real_quant.known import is_known
from .spelling import in_place_reason, is_written


def constant_nodes(graph: fx.Graph) -> frozenset[fx.Node]:
    """Returns the parameters and buffers of ``graph``, and the calls of functions and methods on these alone.

    Parameters and buffers that the graph changes are no constants.
    """
    found: set[fx.Node] = set()
    for node in graph.nodes:
        operands = node.all_input_nodes
        is_constant = not is_written(node) if node.op == "get_attr" else bool(operands) and _is_pure_call(node)
        if is_constant and found.issuperset(operands):
            found.add(node)
    return frozenset(found)


def _is_pure_call(node: fx.Node) -> bool:
    """Whether ``node`` calls a function or method; a module may be a layer or a float CUBE operation (spec 10.4)."""
    if in_place_reason(node) is not None:
        return False
    return node.op == "call_method" or (node.op == "call_function" and is_known(node.target))
