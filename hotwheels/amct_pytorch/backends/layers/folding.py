"""Finds normalizations that are folded into the weight in front of them or behind them (spec 6.7), on both paths.

A member of a chain is

1. a BatchNorm: a module, or ``F.batch_norm`` with the statistics of the model;
2. a product, quotient, sum or difference with a constant per channel that is a parameter or buffer, or computed from
   these: a frozen BatchNorm, a layer scale, a separate bias.

Between the weight and its members, and between members, there may be operations that change nothing, dropouts, sums and
products with Python numbers, and operations that move axes (``permute``). Members behind a weight are folded into it,
one after the other, as long as each is the only reader of the result in front. Members in front of a weight are folded
if that is exact: into a Linear or a convolution without padding; a member that only multiplies, into any convolution.

Nothing is folded into a weight that several calls use. Paddings other than zeros commute with factors and shifts.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn

from ...nn.norm_chain import BatchNormStage, Stage
from ...nn.weighted_op import WeightedOp
from ...ops.desc import OpDesc, Role
from ...ops.registry import Registry
from .channel_axis import ChannelAxis

N = TypeVar("N", bound=Hashable)  # a node: of torch.fx, or the name of a node of an OpGraph

_SHARED = "the weight of '{}' is used at several places"
_READ_TWICE = "'{}' is read by something else, too"
_NO_WEIGHT = "no layer with a weight is next to it, but '{}'"
_PADS = "'{}' behind it pads with zeros, which it would shift"
_NOT_FINITE = "a weight or bias would not be finite"
_NO_STATISTICS = "it has no running statistics"
_NOT_ALLOWED = "the capacity row FUSE_TYPES does not name its class"
_OTHER_AXIS = "it does not normalize the channels of '{}'"
_UNKNOWN_RANK = "the number of dimensions of '{}' is not known (pass input_data)"


@dataclasses.dataclass(frozen=True)
class Unfolded:
    """Why a BatchNorm is not folded.

    Attributes:
      reason: The reason.
      is_foldable: Whether it would be folded exactly if the user allowed it, or said more.
    """

    reason: str
    is_foldable: bool = False


@dataclasses.dataclass(frozen=True)
class Weight(Generic[N]):
    """A call of a layer with a weight.

    Attributes:
      node: The node of the call.
      module: The module with the weight.
      op: The operation's description.
      name: Name of the weight; calls with the same weight have the same name.
    """

    node: N
    module: Any
    op: OpDesc
    name: str


@dataclasses.dataclass(frozen=True)
class Member(Generic[N]):
    """One node that can be folded.

    Attributes:
      data: The node whose result the member changes.
      stage: The factor and shift of each channel.
      is_factor: Whether the member only multiplies, so that zeros of a padding stay zero.
    """

    data: N
    stage: Stage
    is_factor: bool = False


@dataclasses.dataclass(frozen=True)
class Fold(Generic[N]):
    """The members that are folded into one weight.

    Attributes:
      weighted: The node with the weight.
      behind: The folded nodes behind ``weighted``, in the order of the data, with the stage of each.
      front: The folded nodes in front of ``weighted``, likewise.
    """

    weighted: N
    behind: tuple[tuple[N, Stage], ...] = ()
    front: tuple[tuple[N, Stage], ...] = ()

    @property
    def members(self) -> tuple[N, ...]:
        """All folded nodes, in the order of the data."""
        return tuple(node for node, _ in (*self.front, *self.behind))


@dataclasses.dataclass(frozen=True)
class Folds(Generic[N]):
    """All folds of one graph.

    Attributes:
      by_weight: The folds by the node with the weight.
      data: For each folded node, the node whose result it changes, which readers read instead.
      reasons: For each BatchNorm that is not folded, the reason.
    """

    by_weight: dict[N, Fold[N]]
    data: dict[N, N]
    reasons: dict[N, Unfolded]

    def owners(self) -> dict[N, N]:
        """Returns, for each folded node, the node with the weight."""
        return {member: fold.weighted for fold in self.by_weight.values() for member in fold.members}


class FoldGraph(Protocol[N]):
    """What `find_folds_in` asks about the graph of one back-end."""

    def weights(self) -> Iterable[Weight[N]]:
        """Returns the calls of layers with a weight, in execution order."""

    def batch_norms(self) -> Iterable[N]:
        """Returns the BatchNorms, in execution order."""

    def name(self, node: N) -> str:
        """Returns the name of ``node``."""

    def neighbours(self, node: N) -> Iterable[N]:
        """Returns the nodes that read ``node``, and those that ``node`` reads."""

    def readers(self, node: N) -> Collection[N]:
        """Returns the nodes that read the values of ``node``; reads of only the shape do not count."""

    def is_call(self, node: N) -> bool:
        """Whether ``node`` is an operation, not an output of the model."""

    def rank(self, node: N) -> int | None:
        """Returns the number of dimensions of the result of ``node``; None if it is not known."""

    def input_of(self, node: N) -> N | None:
        """Returns the node whose result the layer with a weight, the member or the no-op ``node`` reads, if any."""

    def changes_nothing(self, node: N) -> bool:
        """Whether the result of ``node`` has the values and the shape of its input."""

    def dropout(self, node: N) -> Stage | None:
        """Returns the stage of a dropout; None for any other node."""

    def number(self, node: N, weighted: Any, channels: int) -> Member[N] | None:
        """Returns a sum or product with a Python number as a member; None for other operations."""

    def moved(self, node: N, axis: ChannelAxis, channels: int) -> ChannelAxis | None:
        """Returns the channel axis behind ``node``, which moves axes; None for other operations."""

    def member(self, node: N, axis: ChannelAxis, channels: int) -> Member[N] | Unfolded | None:
        """Returns ``node`` as a member; the reason if a BatchNorm is none; None for other operations."""


def unfolded_fields(folds: Folds[N], node: N) -> dict[str, Any]:
    """Returns the fields of the OpNode of ``node`` that say why it is not folded."""
    found = folds.reasons.get(node)
    return {} if found is None else {"unfolded_reason": found.reason, "is_foldable": found.is_foldable}


def weighted_op(module: Any, role: Role, fold: Fold[Any] | None) -> WeightedOp:
    """Returns the operation of ``module`` with the stages of ``fold``, if there is one."""
    if fold is None:
        return WeightedOp(module, role)
    behind, front = ([stage for _, stage in chain] for chain in (fold.behind, fold.front))
    return WeightedOp(module, role, behind, front)


def find_folds_in(graph: FoldGraph[N]) -> Folds[N]:
    """Returns the possible folds of ``graph``."""
    return _Finder(graph).find()


def batch_norm_stage(
    module: Any, registry: Registry, axis: ChannelAxis, channels: int, data: str
) -> BatchNormStage | Unfolded:
    """Returns the BatchNorm ``module`` as a stage of a chain; the reason if it is not folded.

    Args:
      module: The BatchNorm.
      registry: Names the classes that may be folded.
      axis: The axis of the channels in its input.
      channels: Their number.
      data: Name of the node that makes its input.
    """
    if not registry.is_fusable(type(module)):
        return Unfolded(_NOT_ALLOWED, is_foldable=True)
    if module.running_mean is None or module.running_var is None:
        return Unfolded(_NO_STATISTICS)
    if axis.rank is None:
        return Unfolded(_UNKNOWN_RANK.format(data), is_foldable=True)
    if not axis.is_second or module.num_features != channels:
        return Unfolded(_OTHER_AXIS.format(data))
    return BatchNormStage(module)


class _Finder(Generic[N]):
    def __init__(self, graph: FoldGraph[N]) -> None:
        self._graph = graph
        self._data: dict[N, N] = {}
        self._reasons: dict[N, Unfolded] = {}

    def find(self) -> Folds[N]:
        weights = {weight.node: weight for weight in self._graph.weights()}
        uses = Counter(weight.name for weight in weights.values())
        able = {node: weight for node, weight in weights.items() if self._can_fold(weight, uses[weight.name])}
        behind = {node: self._behind(weight) for node, weight in able.items()}
        taken = {member for chain in behind.values() for member, _ in chain}
        front = {node: self._front(weight, taken) for node, weight in able.items()}
        folds = {node: Fold(node, tuple(behind[node]), tuple(front[node])) for node in able}
        folds = {node: fold for node, fold in folds.items() if fold.members and self._is_finite(fold, able[node])}
        found = Folds(folds, {}, {})
        owners = found.owners()
        for node in self._graph.batch_norms():
            if node not in owners:
                found.reasons[node] = self._reasons.get(node) or Unfolded(self._no_weight(node))
        found.data.update((node, self._data[node]) for node in owners)
        return found

    def _no_weight(self, node: N) -> str:
        data = self._graph.input_of(node)
        return _NO_WEIGHT.format(data if data is None else self._graph.name(data))

    def _can_fold(self, weight: Weight[N], uses: int) -> bool:
        """Whether ``weight`` may take a BatchNorm; if not, notes the reason at adjacent BatchNorms."""
        if uses == 1:
            return True
        for neighbour in self._graph.neighbours(weight.node):
            self._note(neighbour, _SHARED.format(self._graph.name(weight.node)))
        return False

    def _behind(self, weight: Weight[N]) -> list[tuple[N, Stage]]:
        graph = self._graph
        channels = WeightedOp(weight.module, weight.op.role).out_channels
        axis = self._axis(weight.node, weight.op)
        chain: list[tuple[N, Stage]] = []
        waiting: list[tuple[N, Stage]] = []
        last = weight.node
        while (reader := self._only_reader(last)) is not None:
            dropout = graph.dropout(reader)
            if dropout is not None:
                waiting.append((reader, dropout))
            elif graph.changes_nothing(reader):
                pass
            elif (number := graph.number(reader, weight.module, channels)) is not None:
                waiting.append((reader, number.stage))
            elif (place := graph.moved(reader, axis, channels)) is not None:
                axis = place
            else:
                member = self._member(reader, axis, channels)
                if member is None or member.data != last:
                    break
                chain += [*waiting, (reader, member.stage)]
                waiting = []
            self._data[reader] = last
            last = reader
        if reader is None:
            self._reasons.update(dict.fromkeys(graph.readers(last), Unfolded(_READ_TWICE.format(graph.name(last)))))
        return chain

    def _front(self, weight: Weight[N], taken: set[N]) -> list[tuple[N, Stage]]:
        graph = self._graph
        data = graph.input_of(weight.node)
        if data is None:
            return []
        axis = self._axis(data, weight.op)
        channels = WeightedOp(weight.module, weight.op.role).in_channels
        chain: list[tuple[N, Stage]] = []
        waiting: list[tuple[N, Stage]] = []
        reader = weight.node
        while data is not None and data not in taken:
            if self._only_reader(data) != reader:
                self._note(data, _READ_TWICE.format(graph.name(data)))
                break
            dropout = graph.dropout(data)
            number = graph.number(data, weight.module, channels)
            if dropout is not None:
                waiting.insert(0, (data, dropout))
            elif number is not None:
                if not self._is_exact(number, data, weight):
                    break
                waiting.insert(0, (data, number.stage))
            elif not graph.changes_nothing(data):
                member = self._member(data, axis, channels)
                if member is None or not self._is_exact(member, data, weight):
                    break
                chain = [(data, member.stage), *waiting, *chain]
                waiting = []
            before = graph.input_of(data)
            if before is None:
                break
            reader, data = data, before
            self._data[reader] = data
        return chain

    def _is_exact(self, member: Member[N], node: N, weight: Weight[N]) -> bool:
        """Whether ``member``, in front of ``weight``, can be folded exactly: it keeps padded zeros at zero."""
        is_transposed = getattr(weight.module, "transposed", False)
        if member.is_factor or not (pads_zeros(weight.module) or is_transposed):
            return True
        self._note(node, _PADS.format(self._graph.name(weight.node)))
        return False

    def _member(self, node: N, axis: ChannelAxis, channels: int) -> Member[N] | None:
        member = self._graph.member(node, axis, channels)
        if isinstance(member, Unfolded):
            self._reasons.setdefault(node, member)
            return None
        return member

    def _note(self, node: N, reason: str) -> None:
        self._reasons.setdefault(node, Unfolded(reason))

    def _only_reader(self, node: N) -> N | None:
        """Returns the only node that reads the values of ``node``; None if there is none or several."""
        readers = list(self._graph.readers(node))
        return readers[0] if len(readers) == 1 and self._graph.is_call(readers[0]) else None

    def _axis(self, node: N, op: OpDesc) -> ChannelAxis:
        if op.role is Role.LINEAR:
            return ChannelAxis(-1, self._graph.rank(node))
        return ChannelAxis(-1 - op.image_axes, 2 + op.image_axes)

    @torch.no_grad()
    def _is_finite(self, fold: Fold[N], weight: Weight[N]) -> bool:
        if weighted_op(weight.module, weight.op.role, fold).is_finite():
            return True
        for member in fold.members:
            self._reasons[member] = Unfolded(_NOT_FINITE)
        return False


def pads_zeros(module: nn.Module) -> bool:
    """Whether a weighted module adds zeros to its input; other paddings repeat values of the input."""
    if getattr(module, "margins", None) is not None:
        return True
    padding = getattr(module, "padding", 0)
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return False
    return padding != "valid" and any(padding) if isinstance(padding, (tuple, str)) else bool(padding)
