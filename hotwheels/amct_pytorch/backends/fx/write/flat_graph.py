"""The float model of a quantized graph, flat: each layer is one call of a `FlatLayer`, with BatchNorms folded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, fx, nn

from ....nn.call import LayerCall
from ....nn.in_projection import InProjection
from ....nn.quantized_layer import QuantizedLayer
from ....nn.weighted_call import WeightedCall
from ....ops.desc import OpDesc
from ....ops.registry import Registry
from ...calls.written_parameter import written
from ...layers.folded_op import FoldedOp, cpu_copy
from ...layers.folding import weighted_op
from ..quant_graph_module import QuantGraphModule
from ..read.folding import find_folds
from ..read.liveness import live_nodes
from ..read.values import Value, classify
from ..trace.frozen import is_check
from ..traced_module import TracedModule


class FlatLayer(nn.Module):
    """One quantized layer in float.

    Attributes:
      name: Layer name.
      op: The operation's description in the registry.
      call: The operation, and the positions of its quantizable inputs in the call.
      is_quantized: For each of these inputs, whether it is a float tensor, as calibration has found.
    """

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__()
        self.name: str = layer.name
        self.op: OpDesc = layer.op
        self.is_quantized = tuple(not bool(other) for other in layer.non_float_inputs)
        function: Callable[..., Any] = layer.call.function
        if layer.weighted is not None:
            function = FoldedOp(layer.weighted.op)
        elif isinstance(function, nn.Module):
            function = cpu_copy(function)
        self.call = LayerCall(function, layer.call.edges)
        if isinstance(function, nn.Module):
            self.function = function  # registered, so that its parameters have names

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the layer."""
        return self.call(args, kwargs)


def flat_float_graph(
    model: QuantGraphModule, registry: Registry, constants: Mapping[str, Any] = MappingProxyType({})
) -> fx.GraphModule:
    """Returns the float model in eval mode on the CPU; its nodes have the names of those of ``model``.

    Arguments named in ``constants`` are replaced by these values.
    ``model`` keeps its state; parameters that are not changed are shared, not copied.
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
        self._copies: dict[fx.Node, Any] = {}  # copied nodes; the values of constants
        paths = [str(node.target) for node in model.graph.nodes if node.op == "get_attr"]
        self._names_of_attributes = {path.partition(".")[0] for path in paths}

    def build(self) -> fx.GraphModule:
        live = live_nodes(self._model)
        kept = live | self._checks(live)
        for node in self._model.graph.nodes:
            if node not in kept and node.op != "placeholder":
                continue
            if node in self._folded:
                self._copies[node] = self._copies[self._folds.data[node]]
            elif node.op == "placeholder" and node.target in self._constants:
                self._copies[node] = self._constants[node.target]
            elif node.target is written:  # a file has no state
                self._copies[node] = self._copies[node.args[1]]
            else:
                self._copies[node] = self._copy(node)
        return TracedModule(self._root, self._graph).eval()

    def _checks(self, live: frozenset[fx.Node]) -> set[fx.Node]:
        """Returns the checks of frozen values, and what they read, if that needs no further operation on tensors."""
        values = classify(self._model.graph, self._registry)
        able: set[fx.Node] = set(live)
        numbers: set[fx.Node] = set()
        for node in self._model.graph.nodes:
            inputs = node.all_input_nodes
            if values[node] is Value.SIZE or (inputs and numbers.issuperset(inputs)):
                numbers.add(node)
            if node.op == "get_attr" or ((node in numbers or is_check(node)) and able.issuperset(inputs)):
                able.add(node)
        found: set[fx.Node] = set()
        waiting = [node for node in able if is_check(node)]
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += node.all_input_nodes
        return found

    def _copy(self, node: fx.Node) -> fx.Node:
        new = self._graph.node_copy(node, lambda old: self._copies[old])
        if node.op == "get_attr":
            _set_attribute(self._root, str(node.target), _attribute(self._model, str(node.target)))
        elif node.op == "call_module":
            new.target = self._register(node.name, self._flat_module(node))
        return new

    def _register(self, name: str, module: nn.Module) -> str:
        # An attribute path may begin with that name, and nn.Module itself has, for example, ``to``.
        while hasattr(self._root, name) or name in self._names_of_attributes:
            name += "_"
        self._root.add_module(name, module)
        return name

    def _flat_module(self, node: fx.Node) -> nn.Module:
        module = self._model.get_submodule(str(node.target))
        if isinstance(module, QuantizedLayer):
            return FlatLayer(module)
        # BatchNorms are folded into float layers too, in every exported file (spec 11.3).
        fold = self._folds.by_weight.get(node)
        # These modules compute their weight when it is read.
        if fold is None and not isinstance(module, (InProjection, WeightedCall)):
            return cpu_copy(module)
        op = self._registry.find_module(type(module))
        assert op is not None, "only known operations are folded"
        return FoldedOp(weighted_op(module, op.role, fold and dataclasses.replace(fold, front=())))


def _attribute(model: nn.Module, target: str) -> Any:
    path, _, name = target.rpartition(".")
    value = getattr(model.get_submodule(path), name)
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _set_attribute(root: nn.Module, target: str, value: Any) -> None:
    *path, name = target.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    if isinstance(value, Tensor):
        root.register_buffer(name, value)
    else:
        setattr(root, name, value)
