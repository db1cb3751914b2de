"""Which nodes compute from parameters and buffers only: their results are constants of every exported file.

They are evaluated once, in float32, on both sides: in front of the export, which may or may not fold them by itself,
and in real_quant. So the constant in the file is the one the integer network computes with.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from .known import is_known


def constant_nodes(graph: fx.Graph) -> frozenset[fx.Node]:
    """Returns the parameters and buffers of ``graph`` and the calls of functions and methods on nothing but those."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr" or (_is_pure_call(node) and node.all_input_nodes and found.issuperset(node.all_input_nodes)):
            found.add(node)
    return frozenset(found)


def _is_pure_call(node: fx.Node) -> bool:
    """Modules stay: they may be layers, and a float CUBE module has rules of its own (SPEC 10.4)."""
    if node.op == "call_method":
        return not str(node.target).endswith("_")
    return node.op == "call_function" and is_known(node.target) and not _is_in_place(node)


def _is_in_place(node: fx.Node) -> bool:
    name: Any = getattr(node.target, "__name__", "")
    return name.endswith("_") or node.kwargs.get("inplace") is True
