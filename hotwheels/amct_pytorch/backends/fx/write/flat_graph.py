"""The float model behind a quantized graph, flat: every node a module named after its layer, BatchNorm folded.

The exporter names ONNX nodes after the modules they come from; in a flat model these are the layer names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn

from ....nn.call import MethodCall
from ....nn.in_projection import InProjection
from ....nn.quantized_layer import QuantizedLayer
from ....nn.weighted_call import WeightedCall
from ....ops.registry import Registry
from ...real_quant.known import is_known
from ...torchscript.exported_layer import ExportedLayer, FoldedOp, FunctionModule
from ..quant_graph_module import QuantGraphModule
from ..read.constants import constant_nodes
from ..read.folding import find_folds, weighted_op

# Calls with no node of their own in ONNX, which a scope name around them would only clutter.
_SCOPELESS = frozenset({"size", "dim", "numel", "ndimension", "getattr", "getitem"})


def flat_float_graph(
    model: QuantGraphModule, registry: Registry, constants: Mapping[str, Any] = MappingProxyType({})
) -> fx.GraphModule:
    """Returns the float model in eval mode on the CPU, with markers around the layers of ``model``.

    It has no argument of a name in ``constants``, but that value in its place.
    ``model`` keeps its state; parameters which are not changed on the way are shared, not copied.
    """
    return _FlatGraph(model, registry, constants).build()


class _FlatGraph:
    """Copies one graph node by node."""

    def __init__(self, model: QuantGraphModule, registry: Registry, constants: Mapping[str, Any]) -> None:
        self._model = model
        self._constants = constants
        self._registry = registry
        self._graph, self._root = fx.Graph(), nn.Module()
        self._folds = find_folds(model, registry)
        self._folded = {node for fold in self._folds.by_weight.values() for node, _ in fold.behind}
        self._copies: dict[fx.Node, Any] = {}  # nodes, but values for the constants
        self._computed = _computed_constants(model)

    def build(self) -> fx.GraphModule:
        for node in self._model.graph.nodes:
            if node in self._folded:
                self._copies[node] = self._copies[self._folds.data[node]]
            elif _is_data(node):
                self._copies[node] = self._copies[node.args[0]]
            elif node.op == "placeholder" and node.target in self._constants:
                self._copies[node] = self._constants[node.target]
            elif node in self._computed:
                self._copies[node] = self._constant(node.name, self._computed[node])
            else:
                self._copies[node] = self._copy(node)
        return fx.GraphModule(self._root, self._graph).eval()

    def _copy(self, node: fx.Node) -> fx.Node:
        new = self._graph.node_copy(node, lambda old: self._copies[old])
        if node.op == "get_attr":
            _set_attribute(self._root, str(node.target), _attribute(self._model, str(node.target)))
        module = self._as_module(node)
        if module is not None:
            new.op, new.target = "call_module", self._register(node.name, module)
        return new

    def _constant(self, name: str, value: Any) -> Any:
        """Returns the node of a computed constant; other values than tensors are written into the calls."""
        if not isinstance(value, Tensor):
            return value
        self._root.register_buffer(name := self._free_name(name), value)
        return self._graph.get_attr(name)

    def _register(self, name: str, module: nn.Module) -> str:
        name = self._free_name(name)
        self._root.add_module(name, module.cpu())
        return name

    def _free_name(self, name: str) -> str:
        while hasattr(self._root, name):  # an attribute path of that name, or ``to``, which nn.Module has itself
            name += "_"
        return name

    def _as_module(self, node: fx.Node) -> nn.Module | None:
        if node.op == "call_module":
            return self._as_flat_module(node)
        if node.op == "call_function" and is_known(node.target) and not _is_scopeless(node):
            return FunctionModule(node.target)
        if node.op == "call_method" and not _is_scopeless(node):
            return FunctionModule(MethodCall(str(node.target)))
        return None

    def _as_flat_module(self, node: fx.Node) -> nn.Module:
        module = self._model.get_submodule(str(node.target))
        if isinstance(module, QuantizedLayer):
            return ExportedLayer(module)
        # A float layer takes up what is behind it, in every exported file (spec 11.3).
        fold = self._folds.by_weight.get(node)
        # The exporter wants parameters, not properties.
        if fold is None and not isinstance(module, (InProjection, WeightedCall)):
            return FunctionModule(module).function
        op = self._registry.find_module(type(module))
        assert op is not None, "only known operations are folded"
        return FoldedOp(weighted_op(module, op.role, fold and dataclasses.replace(fold, front=())))


def _is_data(node: fx.Node) -> bool:
    """Whether it is ``x.data``, which the exporter does not follow: sizes asked of it would be constants."""
    return node.target is getattr and node.args[1] == "data"


def _is_scopeless(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", node.target) in _SCOPELESS


@torch.no_grad()
def _computed_constants(model: QuantGraphModule) -> dict[fx.Node, Any]:
    """The results, in float32, of the calls whose operands are constants."""
    values: dict[fx.Node, Any] = {}
    constants = constant_nodes(model.graph)
    interpreter = fx.Interpreter(model)
    for node in (one for one in model.graph.nodes if one in constants):
        if node.op == "get_attr":
            values[node] = _attribute(model, str(node.target))
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = getattr(interpreter, node.op)(node.target, args, kwargs)
    return {node: value for node, value in values.items() if node.op != "get_attr"}


def _attribute(model: nn.Module, target: str) -> Any:
    path, _, name = target.rpartition(".")
    value = getattr(model.get_submodule(path), name)
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _set_attribute(root: nn.Module, target: str, value: Any) -> None:
    *path, name = target.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]
    if isinstance(value, Tensor):
        root.register_buffer(name, value)
    else:
        setattr(root, name, value)
