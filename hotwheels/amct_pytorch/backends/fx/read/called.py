"""The callable of a node in a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from ....nn.call import MethodCall


def callable_of(graph_module: fx.GraphModule, node: fx.Node) -> Callable[..., Any]:
    """Returns the callable of a call node: the module, the function, or a MethodCall."""
    if node.op == "call_module":
        return graph_module.get_submodule(str(node.target))
    return MethodCall(str(node.target)) if node.op == "call_method" else node.target  # type: ignore[return-value]
