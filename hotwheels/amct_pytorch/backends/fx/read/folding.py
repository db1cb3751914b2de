"""Finds normalizations that are folded into the weight in front of them or behind them (spec 6.7).

A member of a chain is

1. a BatchNorm: a module, or ``F.batch_norm`` with the statistics of the model;
2. a product, quotient, sum or difference with a constant per channel that is a parameter or buffer, or computed from
   these: a frozen BatchNorm, a layer scale, a separate bias.

Between the weight and its members, and between members, there may be operations that change nothing, dropouts, sums and
products with Python numbers, and operations that move axes (``permute``). Members behind a weight are folded into it,
one after the other, as long as each is the only reader of the result in front. Members in front of a weight are folded
if that is exact: into a Linear or a convolution without padding; a member that only multiplies, into any convolution.

Nothing is folded into a weight that several calls use, or into a convolution that pads with anything but zeros.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ....nn.norm_chain import Stage
from ....nn.weighted_op import WeightedOp
from ....ops.desc import OpDesc, Role
from ....ops.registry import Registry
from .channel_axis import ChannelAxis, Ranks, moved
from .fold_stages import Member, StageMaker, pads_zeros
from .no_op_nodes import changes_nothing, reads_shape_only
from .weight_names import weight_name

_SHARED = "the weight of '{}' is used at several places"
_PADDING_MODE = "'{}' pads with something else than zeros"
_READ_TWICE = "'{}' is read by something else, too"
_NO_WEIGHT = "no layer with a weight is next to it, but '{}'"
_PADS = "'{}' behind it pads with zeros, which it would shift"
_NOT_FINITE = "a weight or bias would not be finite"


@dataclasses.dataclass(frozen=True)
class Fold:
    """The members that are folded into one weight.

    Attributes:
      weighted: The node with the weight.
      behind: The folded nodes behind ``weighted``, in the order of the data, with the stage of each.
      front: The folded nodes in front of ``weighted``, likewise.
    """

    weighted: Node
    behind: tuple[tuple[Node, Stage], ...] = ()
    front: tuple[tuple[Node, Stage], ...] = ()

    @property
    def members(self) -> tuple[Node, ...]:
        """All folded nodes, in the order of the data."""
        return tuple(node for node, _ in (*self.front, *self.behind))


@dataclasses.dataclass(frozen=True)
class Folds:
    """All folds of one graph.

    Attributes:
      by_weight: The folds by the node with the weight.
      data: For each folded node, the node whose result it changes, which readers read instead.
      reasons: For each BatchNorm that is not folded, the reason.
    """

    by_weight: dict[Node, Fold]
    data: dict[Node, Node]
    reasons: dict[Node, str]

    def owners(self) -> dict[Node, Node]:
        """Returns, for each folded node, the node with the weight."""
        return {member: fold.weighted for fold in self.by_weight.values() for member in fold.members}


def weighted_op(module: Any, role: Role, fold: Fold | None) -> WeightedOp:
    """Returns the operation of ``module`` with the stages of ``fold``, if there is one."""
    if fold is None:
        return WeightedOp(module, role)
    behind, front = ([stage for _, stage in chain] for chain in (fold.behind, fold.front))
    return WeightedOp(module, role, behind, front)


def find_folds(graph_module: GraphModule, registry: Registry) -> Folds:
    """Returns the possible folds of ``graph_module``, which is not changed."""
    return _Finder(graph_module, registry).find()


class _Finder:
    def __init__(self, graph_module: GraphModule, registry: Registry) -> None:
        self._module = graph_module
        self._maker = StageMaker(graph_module, registry)
        self._ranks = Ranks(graph_module, registry)
        self._data: dict[Node, Node] = {}
        self._reasons: dict[Node, str] = {}

    def find(self) -> Folds:
        weighted = {node: op for node in self._module.graph.nodes if (op := self._weighted_op(node)) is not None}
        uses = Counter(self._weight_name(node) for node in weighted)
        able = {node: op for node, op in weighted.items() if self._can_fold(node, uses[self._weight_name(node)])}
        behind = {node: self._behind(node, op) for node, op in able.items()}
        taken = {member for chain in behind.values() for member, _ in chain}
        front = {node: self._front(node, op, taken) for node, op in able.items()}
        folds = {node: Fold(node, tuple(behind[node]), tuple(front[node])) for node in able}
        folds = {node: fold for node, fold in folds.items() if fold.members and self._is_finite(fold, able[node])}
        found = Folds(folds, {}, {})
        owners = found.owners()
        for node in self._module.graph.nodes:
            if self._maker.is_batch_norm(node) and node not in owners:
                found.reasons[node] = self._reasons.get(node, _NO_WEIGHT.format(self._maker.data_of(node)))
        found.data.update((node, self._data[node]) for node in owners)
        return found

    def _weighted_op(self, node: Node) -> OpDesc | None:
        op = self._maker.op(node) if node.op == "call_module" else None
        return op if op is not None and op.has_weight else None

    def _weight_name(self, node: Node) -> str:
        return weight_name(node, self._maker.called(node))

    def _can_fold(self, node: Node, uses: int) -> bool:
        """Whether the weight of ``node`` may take a BatchNorm; if not, notes the reason at adjacent BatchNorms."""
        module = self._maker.called(node)
        reason = None
        if uses > 1:
            reason = _SHARED.format(node.name)
        elif getattr(module, "padding_mode", "zeros") != "zeros":
            reason = _PADDING_MODE.format(node.name)
        for neighbour in (*node.users, *node.all_input_nodes) if reason else ():
            self._reasons.setdefault(neighbour, str(reason))
        return reason is None

    def _behind(self, weighted: Node, op: OpDesc) -> list[tuple[Node, Stage]]:
        channels = WeightedOp(self._maker.called(weighted), op.role).out_channels
        axis = self._axis(weighted, op)
        chain: list[tuple[Node, Stage]] = []
        waiting: list[tuple[Node, Stage]] = []
        last = weighted
        while (reader := self._only_reader(last)) is not None:
            dropout = self._maker.dropout(reader)
            if dropout is not None:
                waiting.append((reader, dropout))
            elif changes_nothing(self._module, reader):
                pass
            elif (number := self._maker.number(reader, self._maker.called(weighted), channels)) is not None:
                waiting.append((reader, number.stage))
            elif (place := self._moved(reader, axis, channels)) is not None:
                axis = place
            else:
                member = self._member(reader, axis, channels)
                if member is None or member.data is not last:
                    break
                chain += [*waiting, (reader, member.stage)]
                waiting = []
            self._data[reader] = last
            last = reader
        if reader is None:
            self._reasons.update(dict.fromkeys(last.users, _READ_TWICE.format(last.name)))
        return chain

    def _front(self, weighted: Node, op: OpDesc, taken: set[Node]) -> list[tuple[Node, Stage]]:
        module = self._maker.called(weighted)
        data = weighted.args[0] if weighted.args else weighted.kwargs.get("input")
        assert isinstance(data, Node)
        axis = self._axis(data, op)
        channels = WeightedOp(module, op.role).in_channels
        chain: list[tuple[Node, Stage]] = []
        waiting: list[tuple[Node, Stage]] = []
        reader = weighted
        while data not in taken:
            if self._only_reader(data) is not reader:
                self._reasons.setdefault(data, _READ_TWICE.format(data.name))
                break
            dropout = self._maker.dropout(data)
            number = self._maker.number(data, module, channels)
            if dropout is not None:
                waiting.insert(0, (data, dropout))
            elif number is not None:
                if not self._is_exact(number, data, weighted):
                    break
                waiting.insert(0, (data, number.stage))
            elif not changes_nothing(self._module, data):
                member = self._member(data, axis, channels)
                if member is None or not self._is_exact(member, data, weighted):
                    break
                chain = [(data, member.stage), *waiting, *chain]
                waiting = []
            reader, data = data, self._maker.data_of(data) or data.all_input_nodes[0]
            self._data[reader] = data
        return chain

    def _is_exact(self, member: Member, node: Node, weighted: Node) -> bool:
        """Whether ``member``, in front of ``weighted``, can be folded exactly: it keeps padded zeros at zero."""
        module = self._maker.called(weighted)
        is_transposed = getattr(module, "transposed", False)
        if member.is_factor or not (pads_zeros(module) or is_transposed):
            return True
        self._reasons.setdefault(node, _PADS.format(weighted.name))
        return False

    def _member(self, node: Node, axis: ChannelAxis, channels: int) -> Member | None:
        member = self._maker.member(node, axis, channels)
        if isinstance(member, str):
            self._reasons.setdefault(node, member)
            return None
        return member

    def _only_reader(self, node: Node) -> Node | None:
        """Returns the only node that reads the values of ``node``; None if there is none or several."""
        readers = [user for user in node.users if not reads_shape_only(user, node)]
        return readers[0] if len(readers) == 1 and readers[0].op.startswith("call") else None

    def _axis(self, node: Node, op: OpDesc) -> ChannelAxis:
        if op.role is Role.LINEAR:
            return ChannelAxis(-1, self._ranks.of(node))
        return ChannelAxis(-1 - op.image_axes, 2 + op.image_axes)

    def _moved(self, node: Node, axis: ChannelAxis, channels: int) -> ChannelAxis | None:
        op = self._maker.op(node)
        return None if op is None else moved(node, axis, channels, op.name)

    @torch.no_grad()
    def _is_finite(self, fold: Fold, op: OpDesc) -> bool:
        if weighted_op(self._maker.called(fold.weighted), op.role, fold).is_finite():
            return True
        for member in fold.members:
            self._reasons[member] = _NOT_FINITE
        return False
