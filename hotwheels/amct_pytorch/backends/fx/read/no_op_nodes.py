"""Which nodes of a traced graph hand their tensor on unchanged, as far as the graph tells."""

from __future__ import annotations

from torch import fx

from ...no_ops import is_copy
from ...real_quant.known import is_known
from .called import callable_of


def handed_on_nodes(graph_module: fx.GraphModule) -> dict[str, str]:
    """Returns, for the nodes which certainly hand their tensor on, by name the node whose tensor it is.

    Without the values: conversions count as long as they name no type of integers; shapes are not known.
    """
    found: dict[str, str] = {}
    for node in graph_module.graph.nodes:
        source = node.args[0] if node.args else None
        if not node.op.startswith("call") or not isinstance(source, fx.Node):
            continue
        function = callable_of(graph_module, node)
        if is_known(function) and is_copy(function, node.args, node.kwargs):
            found[node.name] = found.get(source.name, source.name)
    return found
