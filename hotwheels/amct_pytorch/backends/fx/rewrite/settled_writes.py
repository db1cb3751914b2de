"""Finds out whether a forward's changes of parameters and buffers settle: a second call writes and reads the same.

Only changes by values computed from parameters and buffers alone are looked at: masks, clamps, norms of a weight. They
run twice, on copies. A counter does not settle, and neither does a weight that a layer reads before it is masked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from ....nn.computed_tensor import Tree
from ....torch_private import pytree
from ...user_model.written_parameters import is_changed
from .weight_sources import WeightSources


def unsettled_states(graph_module: GraphModule, writes: list[Node], sources: WeightSources) -> set[str]:
    """Returns the names of the parameters and buffers that the nodes ``writes`` change, or that are read, differently.

    ``writes`` are nodes of ``sources`` that change one of their operands in place; ``graph_module`` is not changed.
    """
    calls = _Calls(graph_module, writes, sources)
    before = calls.values()
    first = calls.run()
    between = calls.values()
    second = calls.run()
    after = calls.values()
    found = {name for name, one in between.items() if is_changed(one, after[name])}
    changed = {name for name, one in before.items() if is_changed(one, between[name])}
    for node, one in first.items():
        if any(map(is_changed, one, second[node])):
            found |= changed & calls.states_of(node)
    return found


class _Calls:
    """The nodes that change or read the states, on copies of the states."""

    def __init__(self, graph_module: GraphModule, writes: list[Node], sources: WeightSources) -> None:
        self._module, self._sources = graph_module, sources
        self._tree = Tree(graph_module)
        names = {str(one.target): self._tree.find(str(one.target)) for one in _before(writes) if one.op == "get_attr"}
        self._originals = {name: one for name, one in names.items() if isinstance(one, Tensor)}
        copies = {id(one): one.detach().clone() for one in self._originals.values()}
        self._copies = {name: copies[id(one)] for name, one in self._originals.items()}
        nodes = [node for node in graph_module.graph.nodes if node not in sources]
        self._reads = {node for node in nodes if self.states_of(node)}
        needed = _before([*writes, *(one for node in self._reads for one in self._weights(node))])
        self._needed = {node for node in needed if node in sources}

    def values(self) -> dict[str, Tensor]:
        """Returns copies of the present states."""
        return {name: one.clone() for name, one in self._copies.items()}

    def states_of(self, reader: Node) -> set[str]:
        """Returns the states that ``reader``, an operation on data, reads: in its weights, or in its module."""
        names = {str(one.target) for one in _before(self._weights(reader))}
        if reader.op == "call_module":
            own = {id(one) for one in self._module.get_submodule(str(reader.target)).parameters()}
            names |= {name for name, one in self._originals.items() if id(one) in own}
        return names & self._copies.keys()

    @torch.no_grad()
    def run(self) -> dict[Node, list[Tensor]]:
        """Runs the nodes in order; returns what each operation on data reads: its weights, and the states."""
        results: dict[Node, Any] = {}
        found: dict[Node, list[Tensor]] = {}
        for node in self._module.graph.nodes:
            if node in self._needed:
                results[node] = self._result(node, results)
            if node in self._reads:
                weights = [results[one] for one in self._weights(node)]
                names = sorted(self.states_of(node)) if node.op == "call_module" else []
                states = [self._copies[name] for name in names]
                leaves = pytree.tree_leaves((weights, states))
                found[node] = [one.clone() for one in leaves if isinstance(one, Tensor)]
        return found

    def _weights(self, reader: Node) -> list[Node]:
        return [one for one in reader.all_input_nodes if one in self._sources]

    def _result(self, node: Node, results: dict[Node, Any]) -> Any:
        if node.op == "get_attr":
            name = str(node.target)
            return self._copies[name] if name in self._copies else self._tree.find(name)
        if any(one not in results for one in node.all_input_nodes):  # such as a cast to the type of the data
            source = self._sources.tensor(node)
            return None if source is None else source()
        args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda one: results[one])
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        function: Any = self._module.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        return function(*args, **kwargs)


def _before(nodes: list[Node]) -> set[Node]:
    """Returns ``nodes`` and all that they are computed from."""
    found: set[Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found
