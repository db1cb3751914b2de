"""The graph of a trace for `backends.layers.folding`, which finds what is folded into weights (spec 6.7)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from torch import nn
from torch.fx import GraphModule, Node

from ....nn.norm_chain import Stage
from ....ops.registry import Registry
from ...layers.channel_axis import ChannelAxis
from ...layers.folding import Folds, Unfolded, Weight, find_folds_in
from .channel_axis import Ranks, moved
from .fold_stages import NodeMember, StageMaker
from .no_op_nodes import changes_nothing, reads_shape_only
from .weight_names import weight_name


def find_folds(graph_module: GraphModule, registry: Registry) -> Folds[Node]:
    """Returns the possible folds of ``graph_module``, which is not changed."""
    return find_folds_in(_TracedGraph(graph_module, registry))


class _TracedGraph:
    """A trace as a `FoldGraph`."""

    def __init__(self, graph_module: GraphModule, registry: Registry) -> None:
        self._module = graph_module
        self._maker = StageMaker(graph_module, registry)
        self._ranks = Ranks(graph_module, registry)

    def weights(self) -> Iterator[Weight[Node]]:
        for node in self._module.graph.nodes:
            op = self._maker.op(node) if node.op == "call_module" else None
            if op is not None and op.has_weight:
                module = self._maker.called(node)
                yield Weight(node, module, op, weight_name(node, module))

    def batch_norms(self) -> Iterator[Node]:
        return (node for node in self._module.graph.nodes if self._maker.is_batch_norm(node))

    def name(self, node: Node) -> str:
        return node.name

    def neighbours(self, node: Node) -> Iterable[Node]:
        return (*node.users, *node.all_input_nodes)

    def readers(self, node: Node) -> Collection[Node]:
        return [user for user in node.users if not reads_shape_only(user, node)]

    def is_call(self, node: Node) -> bool:
        return node.op.startswith("call")

    def rank(self, node: Node) -> int | None:
        return self._ranks.of(node)

    def input_of(self, node: Node) -> Node | None:
        data = self._maker.data_of(node)
        return data if data is not None else next(iter(node.all_input_nodes), None)

    def changes_nothing(self, node: Node) -> bool:
        return changes_nothing(self._module, node)

    def dropout(self, node: Node) -> Stage | None:
        return self._maker.dropout(node)

    def number(self, node: Node, weighted: object, channels: int) -> NodeMember | None:
        return self._maker.number(node, weighted, channels)

    def moved(self, node: Node, axis: ChannelAxis, channels: int) -> ChannelAxis | None:
        op = self._maker.op(node)
        module = self._module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Flatten):
            return moved(node, axis, channels, "flatten", module)
        return None if op is None else moved(node, axis, channels, op.name)

    def member(self, node: Node, axis: ChannelAxis, channels: int) -> NodeMember | Unfolded | None:
        return self._maker.member(node, axis, channels)
