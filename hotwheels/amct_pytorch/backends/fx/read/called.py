"""What a node of a graph calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from ....nn.call import MethodCall


def callable_of(graph_module: fx.GraphModule, node: fx.Node) -> Callable[..., Any]:
    """Returns what a call node calls: the module, the function, or a MethodCall."""
    if node.op == "call_module":
        return graph_module.get_submodule(str(node.target))
    return MethodCall(str(node.target)) if node.op == "call_method" else node.target  # type: ignore[return-value]
