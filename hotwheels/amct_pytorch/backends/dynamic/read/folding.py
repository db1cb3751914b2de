"""The graph of an exported model for `backends.layers.folding`, which finds what is folded into weights (spec 6.7).

A layer with several uses is one layer, so all its calls need the same members, and a module that is a member must be
one in each of its calls: its forward then returns its input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence

import onnx_ir as ir
from torch import nn

from ....graph import FoldedNodes, OpGraph, OpNode
from ....nn.in_projection import InProjection
from ....nn.norm_chain import BatchNormStage, PassStage, ProbedStage, Stage
from ....ops.desc import Role
from ....ops.registry import Registry
from ...layers.channel_axis import ChannelAxis
from ...layers.folding import Folds, Member, Unfolded, Weight, batch_norm_stage, find_folds_in
from ..forwards import OriginalForward
from ..inner_affine import InnerAffine
from .candidates import Candidate
from .export import MarkedExport
from .layer_body import PLAIN_BODIES

_SWITCHED_OFF = "do_fusion or skip_fusion_layers keeps it"
_SEVERAL_CALLS = "one of the calls of '{}' is not followed by the same modules"
_PARTED = "in training another operation is between '{}' and '{}', or one of them is not called"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fusion:
    """Which BatchNorms may be folded (spec 9.2).

    Attributes:
      is_on: ``do_fusion``.
      skipped: ``skip_fusion_layers``: layers with a weight, or BatchNorms, that are not folded.
    """

    is_on: bool = True
    skipped: Collection[str] = ()

    def allows(self, layer: str) -> bool:
        """Whether ``layer`` may be folded, or something into it."""
        return self.is_on and layer not in self.skipped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What finding folds needs to know of an exported model.

    Attributes:
      export: The model.
      candidates: Its modules that are single operations, by path.
      registry: The operations that may be folded.
      fusion: What the user allows.
      parted: Members that are not folded, by path, each with the reason.
    """

    export: MarkedExport
    candidates: Mapping[str, Candidate]
    registry: Registry
    fusion: Fusion
    parted: Mapping[str, str] = dataclasses.field(default_factory=dict)


def find_folds(graph: OpGraph, exported: Exported) -> Folds[str]:
    """Returns the folds of ``graph``, by names of nodes; all calls of a module are folded, or none."""
    refused = dict(exported.parted)
    while True:
        folds = find_folds_in(_ExportedGraph(graph, exported, refused))
        uneven = _uneven(graph, folds, exported.export)
        if not uneven:
            return folds
        refused |= uneven


def folded_modules(folded: FoldedNodes, export: MarkedExport) -> FoldedNodes:
    """Returns the paths of the modules whose calls are ``folded``."""
    return FoldedNodes(*(tuple(export.paths[name] for name in chain) for chain in (folded.front, folded.behind)))


def part_reason(first: str, second: str) -> str:
    """Returns why two modules that are neighbours in the file are not folded into one layer."""
    return _PARTED.format(first, second)


def stages(
    members: Sequence[Candidate], channels: int, dropouts: Mapping[nn.Module, Collection[nn.Module]]
) -> list[Stage]:
    """Returns the stages of ``members``, in the order of the data of ``channels``, each behind its ``dropouts``."""
    found: list[Stage] = []
    for member in members:
        found += dropout_stages(dropouts.get(member.module, ()))
        found.append(_stage(member, channels))
    return found


def dropout_stages(dropouts: Collection[nn.Module]) -> list[Stage]:
    """Returns the stages of ``dropouts``."""
    return [PassStage(one, OriginalForward(one)) for one in dropouts]


def _stage(member: Candidate, channels: int) -> Stage:
    module, forward = member.module, OriginalForward(member.module)
    if isinstance(module, InnerAffine):
        return module.stage(channels)
    if member.affine is not None:
        return ProbedStage(module, forward, member.affine.probe_shape, channels)
    return BatchNormStage(module, forward)


def _uneven(graph: OpGraph, folds: Folds[str], export: MarkedExport) -> dict[str, str]:
    """Returns the members that cannot stay, by path with the reason, since other calls of a module are different."""
    paths, owners = export.paths, folds.owners()
    chains: dict[str, list[FoldedNodes]] = {}
    found: dict[str, str] = {}
    for node in graph:
        if node.name in paths and node.op is not None and node.op.has_weight:
            fold = folds.by_weight.get(node.name)
            names = FoldedNodes() if fold is None else folded_names(folds, node.name)
            chains.setdefault(paths[node.name], []).append(folded_modules(names, export))
        if node.name in paths and node.name not in owners:
            calls = [name for name in owners if paths[name] == paths[node.name]]
            found |= {paths[name]: _SEVERAL_CALLS.format(paths[name]) for name in calls}
    for layer, several in chains.items():
        for other in several[1:]:
            found |= {path: _SEVERAL_CALLS.format(layer) for path in _different(several[0], other)}
    return found


def _different(one: FoldedNodes, other: FoldedNodes) -> Iterator[str]:
    """Yields the members that are not the same in both: those farther from the layer than the first difference."""
    for first, second in ((one.behind, other.behind), (one.front[::-1], other.front[::-1])):
        same = next((at for at, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), None)
        same = min(len(first), len(second)) if same is None else same
        yield from (*first[same:], *second[same:])


def folded_names(folds: Folds[str], node: str) -> FoldedNodes:
    """Returns the names of the nodes that are folded into ``node``."""
    fold = folds.by_weight.get(node)
    if fold is None:
        return FoldedNodes()
    return FoldedNodes(*(tuple(name for name, _ in chain) for chain in (fold.front, fold.behind)))


class _ExportedGraph:
    """An exported model as a `FoldGraph`, whose nodes are names of an OpGraph."""

    def __init__(self, graph: OpGraph, exported: Exported, refused: Mapping[str, str]) -> None:
        self._graph = graph
        self._exported = exported
        self._refused = refused
        self._paths = exported.export.paths
        self._onnx = {str(node.name): node for node in exported.export.model.graph}
        self._results = {name: site.nodes[-1] for name, site in exported.export.sites.items()}

    def weights(self) -> Iterator[Weight[str]]:
        for node in self._graph:
            if node.op is None or not node.op.has_weight or node.name not in self._results:
                continue
            candidate = self._exported.candidates[self._paths[node.name]]
            if self._exported.fusion.allows(candidate.path) and self._is_plain(node, candidate):
                yield Weight(node.name, candidate.computing, node.op, node.name)

    def batch_norms(self) -> Iterator[str]:
        for node in self._graph:
            if node.op is not None and node.op.role is Role.BATCH_NORM and node.name in self._results:
                yield node.name

    def name(self, node: str) -> str:
        return node

    def neighbours(self, node: str) -> Collection[str]:
        return (*self._graph.consumers[node], *self._graph[node].inputs)

    def readers(self, node: str) -> Collection[str]:
        return [one for one in self._graph.consumers[node] if self._graph[one].onnx_type != "Shape"]

    def is_call(self, node: str) -> bool:
        return node in self._onnx

    def rank(self, node: str) -> int | None:
        shape = self._shape(node)
        return None if shape is None else len(shape)

    def input_of(self, node: str) -> str | None:
        inputs = self._graph[node].inputs
        return inputs[0] if len(inputs) == 1 else None

    def changes_nothing(self, node: str) -> bool:
        return self._graph[node].onnx_type == "Identity" and node not in self._results

    def dropout(self, node: str) -> None:
        """Returns None: the exported model has no dropouts."""

    def number(self, node: str, weighted: object, channels: int) -> None:
        """Returns None: an operation of a user's forward is done there in each forward."""

    def moved(self, node: str, axis: ChannelAxis, channels: int) -> ChannelAxis | None:
        before = self.input_of(node)
        if node in self._results or before is None:
            return None
        old, new = self._shape(before), self._shape(node)
        kind = self._graph[node].onnx_type
        if old is None or new is None or axis.rank != len(old):
            return None
        if kind == "Transpose":
            order = [at % len(old) for at in self._onnx[node].attributes["perm"].as_ints()]
            return ChannelAxis(order.index(axis.index % len(old)) - len(old), len(old))
        is_last = axis.index == -1 and bool(old and new) and old[-1] == new[-1] == channels
        return ChannelAxis(-1, len(new)) if kind in ("Reshape", "Flatten") and is_last else None

    def member(self, node: str, axis: ChannelAxis, channels: int) -> Member[str] | Unfolded | None:
        data = self.input_of(node)
        if node not in self._results or data is None:
            return None
        candidate = self._exported.candidates[self._paths[node]]
        reason = self._refused.get(candidate.path)
        if reason is None and not self._exported.fusion.allows(candidate.path):
            reason = _SWITCHED_OFF
        if candidate.affine is not None:
            is_allowed = reason is None and candidate.affine.is_along(axis, channels)
            return Member(data, _stage(candidate, channels), candidate.affine.is_factor) if is_allowed else None
        if candidate.op.role is not Role.BATCH_NORM:
            return None
        found = batch_norm_stage(candidate.module, self._exported.registry, axis, channels, data)
        if isinstance(found, Unfolded):
            return found
        if reason is not None:
            return Unfolded(reason, is_foldable=reason == _SWITCHED_OFF)
        return Member(data, _stage(candidate, channels))

    def _is_plain(self, node: OpNode, candidate: Candidate) -> bool:
        """Whether a folded weight can be written into the nodes of the layer."""
        if node.op is None or node.op.role is not Role.LINEAR:
            return True
        types = tuple(self._onnx[one].op_type for one in self._exported.export.sites[node.name].nodes)
        return types in PLAIN_BODIES and not isinstance(candidate.module, InProjection)

    def _shape(self, node: str) -> tuple[object, ...] | None:
        """Returns the shape of the result of ``node``; sizes that are not known are names."""
        name = self._results.get(node, node)
        value: ir.Value | None = None
        if name in self._onnx:
            value = self._onnx[name].outputs[0]
        elif self._graph[node].onnx_name:
            inputs = {str(one.name): one for one in self._exported.export.model.graph.inputs}
            value = inputs.get(self._graph[node].onnx_name)
        if value is None or value.shape is None:
            return None
        return tuple(one if isinstance(one, int) else str(one) for one in value.shape)
