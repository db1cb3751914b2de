"""Inline: inserts calls into a finished graph to replace one of its nodes, with new node names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.fx import Graph, GraphModule, Node, Proxy
from torch.fx.node import map_arg
from torch.fx.proxy import GraphAppendingTracer

from ..trace.dropout import add_follower


class Inline:
    """The insertion point in front of a node, and the module whose forward is inserted there.

    New nodes are named ``<name of the node>_<what they do>``, so the names of all other nodes stay the same, numbers
    included (spec 8.2).

    Attributes:
      module: The module whose forward is inserted; the root for a function.
    """

    def __init__(self, root: nn.Module, graph: Graph, path: str, prefix: str, caller: str = "") -> None:
        """Sets the insertion point.

        Args:
          root: The model.
          graph: The graph of ``root``.
          path: Path of the module whose forward is inserted; empty for a function.
          prefix: Prefix of the names; empty for the model itself.
          caller: Path of the module in whose forward the call is.
        """
        self.module: Any = root.get_submodule(path)
        self._root = root
        self._graph = graph
        self._path = path
        self._prefix = prefix
        self._caller = caller
        self._tracer = _PrefixTracer(graph, prefix)

    def proxies(self, arguments: Any) -> Any:
        """Returns ``arguments`` with a Proxy, on which code can be run, for each node in it."""

        def proxy(node: Node) -> Any:
            return Proxy(node, self._tracer)

        return map_arg(arguments, proxy)

    def child(self, name: str) -> Inline:
        """Returns the insertion point for the forward of the submodule ``name`` (dotted)."""
        return Inline(
            self._root, self._graph, self._below(name), _joined(self._prefix, name.replace(".", "_")), self._caller
        )

    def call(self, name: str, *args: Proxy) -> Proxy:
        """Calls a sub-module as one node."""
        return self._tracer.create_proxy("call_module", self._below(name), args, {})

    def attach(self, name: str, module: nn.Module) -> None:
        """Registers ``module`` as a submodule, unless an earlier call of the same module did."""
        if name not in self.module._modules:
            self.module.add_module(name, module.train(self.module.training))

    def attach_function(self, name: str, module: nn.Module) -> str:
        """Registers ``module``, which replaces a function, in the calling module; returns its path."""
        return add_follower(self._root, self._caller, f"{self._prefix}_{name}", module)

    def _below(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


class _PrefixTracer(GraphAppendingTracer):
    """Records operations on Proxies as nodes with prefixed names."""

    def __init__(self, graph: Graph, prefix: str) -> None:
        super().__init__(graph)
        self._prefix = prefix

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> Node:
        own = target.rpartition(".")[2] if isinstance(target, str) else target.__name__
        return super().create_node(kind, target, args, kwargs, _joined(self._prefix, own.strip("_")), type_expr)


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}_{name}".lower() if prefix else name.lower()


def replace_node(node: Node, value: Any) -> None:
    """Replaces ``node`` by ``value`` (a Proxy, None, or a tuple of these) and erases ``node``.

    Calls that pick one result of the tuple are replaced by that result.
    """
    graph = node.graph
    value = nodes_behind(value)
    for user in list(node.users):
        if isinstance(value, tuple) and is_pick(user):
            replace_node(user, value[user.args[1]])  # type: ignore[index]
        else:
            user.args, user.kwargs = map_arg((user.args, user.kwargs), lambda one: value if one is node else one)
    graph.erase_node(node)


def nodes_behind(value: Any) -> Any:
    """Returns ``value`` (a Proxy, None, or a tuple of these) with nodes in place of Proxies."""
    if isinstance(value, tuple):
        return tuple(nodes_behind(one) for one in value)
    return value.node if isinstance(value, Proxy) else value


def is_pick(node: Node) -> bool:
    """Whether the node only picks an element of another node's result."""
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def attribute(root: GraphModule, node: Node, path: str) -> Node:
    """Inserts a node that reads the parameter or buffer ``path``, with the user's source line of ``node``."""
    found = root.graph.get_attr(path)
    found.stack_trace = node.stack_trace
    return found


def write_behind(root: GraphModule, node: Node, write: Callable[[Inline, Any], Any]) -> None:
    """Makes all readers of ``node`` read the result of ``write`` on it."""
    place = Inline(root, root.graph, "", node.name)
    readers = list(node.users)
    with root.graph.inserting_before(node.next):
        result = write(place, place.proxies(node)).node
    for reader in readers:
        reader.replace_input_with(node, result)
    _hand_on_line(node, result)


def _hand_on_line(node: Node, last: Node) -> None:
    """Copies the user's source line from ``node`` to the new nodes behind it, up to ``last``."""
    while node is not last:
        node.next.stack_trace = node.stack_trace
        node = node.next
