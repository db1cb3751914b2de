"""Reads an OpGraph from the exported model: layers have their module paths, all other nodes their ONNX names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir

from ....custom_op.discovery import is_registered_quantizable
from ....graph import Edge, Form, OpGraph, OpNode
from ....log import get_logger
from ....onnx_io.initializers import free_name
from ....ops.desc import Role
from ...calls.mask_values import MASKED
from ...layers.folding import Folds, unfolded_fields
from ...layers.layer_factory import NOT_LISTED
from .candidates import Candidate
from .folding import Exported, find_folds, folded_names
from .layer_body import why_no_single_operation
from .masked import masked_values
from .uses import settle_uses

_log = get_logger(__name__)
_CONVOLUTIONS = frozenset({Role.CONV, Role.CONV_TRANSPOSE})

_NOT_CALLED = "the model does not call it with a float tensor, or nothing uses its result"
_CONSTANT_OPERAND = "one of its operands is a parameter, a constant or not a float tensor"


def build_graph(exported: Exported) -> OpGraph:
    """Returns the operations of the exported model in execution order.

    A node with several results in use is followed by one ``is_pick`` node for each of them, so that a producer's name
    always means one tensor. Candidates that are not in the ONNX model come last, with the reason.
    """
    return _Reader(exported).read()


class _Reader:
    """The state while one graph is read."""

    def __init__(self, exported: Exported) -> None:
        self._exported = exported
        self._export = export = exported.export
        self._candidates = candidates = exported.candidates
        self._registry = exported.registry
        self._paths = export.paths
        self._onnx = {str(node.name): node for node in export.model.graph}
        self._masked = masked_values(export.model)
        self._owners = {inner: layer for layer, site in export.sites.items() for inner in site.nodes}
        self._taken = {*self._onnx, *candidates}
        self._values: dict[ir.Value, str] = {}  # name of the OpGraph node that makes the value

    def read(self) -> OpGraph:
        graph = self._export.model.graph
        nodes = [self._input(value) for value in graph.inputs if value.is_graph_input() and not value.is_initializer()]
        picks = self._name_values()
        for node in graph:
            name = str(node.name)
            if self._owners.get(name, name) == name:  # the others belong to the layer of another node
                nodes.append(self._layer(name) if name in self._export.sites else self._other(node))
                nodes += picks.get(name, [])
        nodes.append(self._output(graph))
        called = {self._paths[name] for name in self._export.sites}
        nodes += [self._absent(path) for path in self._candidates if path not in called]
        return self._with_folding(OpGraph({node.name: node for node in nodes}))

    # --- values ---

    def _name_values(self) -> dict[str, list[OpNode]]:
        """Names the producer of every value, and returns the picks of each node that has several results in use."""
        results: dict[str, list[ir.Value]] = {}
        for node in self._export.model.graph:
            name = self._owners.get(str(node.name), str(node.name))
            results.setdefault(name, []).extend(value for value in node.outputs if self._is_used_outside(value, name))
        picks: dict[str, list[OpNode]] = {}
        for name, values in results.items():
            if len(values) == 1:
                self._values[values[0]] = name
            elif values:
                picks[name] = [self._pick(name, index, value) for index, value in enumerate(values)]
        return picks

    def _is_used_outside(self, value: ir.Value, owner: str) -> bool:
        users = (str(use.node.name) for use in value.uses())
        return value.is_graph_output() or any(self._owners.get(user, user) != owner for user in users)

    def _pick(self, name: str, index: int, value: ir.Value) -> OpNode:
        self._values[value] = self._free(f"{name}[{index}]")
        return OpNode(name=self._values[value], form=Form.FUNCTION, inputs=(name,), is_pick=True)

    def _producers(self, values: Iterator[ir.Value | None], owner: str = "") -> tuple[str, ...]:
        names = (self._values.get(value) for value in values if value is not None)
        return tuple(dict.fromkeys(name for name in names if name is not None and name != owner))

    def _free(self, wanted: str) -> str:
        name = free_name(wanted, self._taken)
        self._taken.add(name)
        return name

    # --- nodes ---

    def _input(self, value: ir.Value) -> OpNode:
        self._values[value] = self._free(str(value.name))
        return OpNode(name=self._values[value], form=Form.INPUT, onnx_name=str(value.name))

    def _output(self, graph: ir.Graph) -> OpNode:
        return OpNode(name=self._free("output"), form=Form.OUTPUT, inputs=self._producers(iter(graph.outputs)))

    def _other(self, node: ir.Node) -> OpNode:
        return OpNode(
            name=str(node.name),
            form=Form.FUNCTION,
            inputs=self._producers(_reads(node)),
            **self._node_kind(node),
            onnx_name=self._export.exporter_names[node],
        )

    def _node_kind(self, node: ir.Node) -> dict[str, Any]:
        """Returns the fields of an OpNode that the capacity file determines by ONNX type."""
        kind = node.op_type
        return {
            "onnx_type": kind,
            "is_cube": self._registry.is_cube(kind),
            "is_no_command": self._registry.is_no_command(kind),
        }

    def _layer(self, name: str) -> OpNode:
        path, main = self._paths[name], self._onnx[name]
        candidate = self._candidates[path]
        body = [self._onnx[inner] for inner in self._export.sites[name].nodes]
        edges = tuple(self._edge(name, index, edge) for index, edge in enumerate(self._export.edges[name]))
        reason = self._why_not(candidate, body, edges) or self._masked_reason(name)
        if reason and is_registered_quantizable(type(candidate.module)):  # the user asked for it, and may have mistyped
            _log.warning_of_layer(path, f"it is not quantized: {reason}. Check onnx_type of its class.")
        return dataclasses.replace(
            _of_module(name, candidate),
            inputs=self._producers((value for node in body for value in _reads(node)), owner=name),
            edges=() if reason else edges,
            unquantizable=reason,
            use_of="" if path == name else path,
            **self._node_kind(main),
            onnx_name=self._export.exporter_names[main],
        )

    def _absent(self, path: str) -> OpNode:
        return dataclasses.replace(_of_module(path, self._candidates[path]), unquantizable=_NOT_CALLED)

    def _edge(self, name: str, index: int, edge: Edge) -> Edge:
        places = self._export.sites[name].inputs.get(index, ())
        values = iter([self._onnx[node].inputs[at] for node, at in places[:1]])
        return dataclasses.replace(edge, producer=next(iter(self._producers(values)), ""))

    def _masked_reason(self, name: str) -> str | None:
        """Returns why the layer stays in float if a quantized input mixes data with a mask; else None."""
        places = [place for one in self._export.sites[name].inputs.values() for place in one]
        read = (self._onnx[node].inputs[at] for node, at in places)
        return MASKED if any(value in self._masked for value in read) else None

    def _why_not(self, candidate: Candidate, body: list[ir.Node], edges: tuple[Edge, ...]) -> str | None:
        if not candidate.is_listed:
            return NOT_LISTED
        if not all(edge.producer for edge in edges):  # the layer does not read it, or it is not the result of a node
            return _CONSTANT_OPERAND
        if candidate.onnx_types == {"MatMul"} and len(edges) < 2:
            return _CONSTANT_OPERAND
        return why_no_single_operation(candidate, body, candidate.path in self._export.own_forwards)

    # --- what belongs to a layer with a weight ---

    def _with_folding(self, graph: OpGraph) -> OpGraph:
        folds = find_folds(graph, self._exported)
        folded = folds.owners()
        behind = {name: weight for weight, fold in folds.by_weight.items() for name, _ in fold.behind}
        fused = dict(self._fused_activations(graph, behind))
        nodes = {node.name: self._with_fold(node, folds) for node in graph}
        for name, weight in {**folded, **fused}.items():
            place = "in front of" if name in behind or name in fused else "behind"
            nodes[name] = dataclasses.replace(
                nodes[name],
                edges=(),
                unquantizable=f"it belongs to the {_kind(graph[weight])} '{graph[weight].layer}' {place} it",
                part_of=graph[weight].layer,
                is_fold_target=name in folded and _is_batch_norm(graph[name]),
            )
        return settle_uses(OpGraph(nodes), {**folded, **fused})

    def _with_fold(self, node: OpNode, folds: Folds[str]) -> OpNode:
        """Returns ``node`` with what is folded into it, and with the tensors that it reads in front of that."""
        front = {name for fold in folds.by_weight.values() for name, _ in fold.front}
        edges = []
        for edge in node.edges:
            producer = edge.producer
            while producer in front:
                producer = folds.data[producer]
            edges.append(dataclasses.replace(edge, producer=producer))
        return dataclasses.replace(
            node,
            edges=tuple(edges),
            folded=folded_names(folds, node.name),
            **unfolded_fields(folds, node.name),
        )

    def _fused_activations(self, graph: OpGraph, folded: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        for node in graph:
            if node.op is not None and node.op.role is Role.FUSED_ACTIVATION and node.inputs:
                before = node.inputs[0]
                conv = folded.get(before, before) if len(node.inputs) == 1 else None
                conv = conv if conv is not None and _kind(graph[conv]) == "convolution" else None
                if conv is not None and self._is_seen(node, graph[before].layer):
                    yield node.name, conv

    def _is_seen(self, node: OpNode, maker: str) -> bool:
        """Whether the call behind ``maker`` can be distinguished at run time from other calls of the same module."""
        return self._export.calls[node.layer] == 1 or self._export.makers.get(node.name) == maker


def _kind(node: OpNode) -> str:
    return "convolution" if node.op is not None and node.op.role in _CONVOLUTIONS else "layer"


def _is_batch_norm(node: OpNode) -> bool:
    return node.op is not None and node.op.role is Role.BATCH_NORM


def _of_module(name: str, candidate: Candidate) -> OpNode:
    return OpNode(
        name=name,
        form=Form.MODULE,
        type=candidate.type,
        op=candidate.op,
        module_path=candidate.path,
    )


def _reads(node: ir.Node) -> Iterator[ir.Value | None]:
    """Yields the inputs of ``node`` and of the nodes inside it: the body of an If or a Loop reads from outside."""
    yield from node.inputs
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in ir.traversal.RecursiveGraphIterator(attribute.as_graph()):
                yield from inner.inputs
