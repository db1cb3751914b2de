"""Writes a flat float graph as an ONNX model, with nodes named after the layers (spec 11.3, 11.6)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, fx, nn

from ....nn.call import MethodCall
from ....onnx_io.layer_sites import LayerSite, main_node, read_places, write_sites
from ....onnx_io.node_names import name_nodes, name_values
from ....torch_private import pytree
from ...batches.export_names import output_names
from ...batches.outputs import output_tensors
from ...calls.item_assignment import with_item
from ...calls.leaves import tensors_in
from ...real_quant.known import is_known
from ...writer.example import Example, FixedAxis
from ...writer.graph_writer import GraphWriter
from ...writer.translator import Translator
from ..read.constants import constant_nodes
from ..trace.frozen import is_check
from .flat_graph import FlatLayer


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Body:
    """The nodes written for one layer.

    Attributes:
      nodes: Its nodes.
      result: The value of its result, or the first of several; None if it has no tensor.
      operands: For each quantizable input, the stand-in value that the layer's nodes read.
    """

    nodes: list[ir.Node]
    result: ir.Value | None
    operands: Mapping[int, ir.Value]


class GraphWalk(fx.Interpreter):
    """Runs a flat graph on its example and writes what each node does.

    Attributes:
      results: The tensors that the graph has returned.
      data_reads: The places where calls make numbers of data, with the name of the call.
    """

    def __init__(self, module: fx.GraphModule, example: Example, opset: int) -> None:
        super().__init__(module)
        self.writer = GraphWriter(opset)
        self.fixed: dict[FixedAxis, str] = {}  # each with the place that fixed it
        self.data_reads: dict[str, None] = {}
        self._example = example
        self._names = {id(tensor): name for name, tensor in _state(module)}
        self._translator = Translator(self.writer, example, self._name_of_constant, self._note_data_read)
        self._constants = constant_nodes(module.graph)
        self._node: fx.Node | None = None
        self._bodies: dict[str, _Body] = {}
        self._sources: dict[ir.Value, ir.Value] = {}  # stand-in -> the original value
        self.results: tuple[Tensor, ...] = ()
        self._results: list[ir.Value] = []
        self._by_node: dict[str, ir.Value] = {}
        self._kept: set[ir.Node] = set()

    @property
    def has_exported_calls(self) -> bool:
        """Whether torch's exporter has written a call."""
        return self._translator.has_exported_calls

    @property
    def baked(self) -> Iterable[str]:
        """The lines of users' functions whose values are constants of the model."""
        return self._translator.baked

    def write(self, arguments: Sequence[Any], output_names: Sequence[str] | None) -> ir.Model:
        """Runs the graph and returns the model.

        Args:
          arguments: The arguments of the graph; the example has their tensors, in the same order.
          output_names: Names for the tensors of the result; None for ``output`` or ``output_0``, ``output_1``, ...
        """
        inputs = iter(self._translator.inputs)
        self.run(*pytree.tree_map_only(Tensor, lambda _: next(inputs), list(arguments)))
        return self._finish(output_names)

    def value_names(self) -> dict[str, str]:
        """Returns the ONNX name of the first result of each graph node, if a node of the model makes that result."""
        values = {name: self._sources.get(value, value) for name, value in self._by_node.items()}
        return {name: str(value.name) for name, value in values.items() if value.producer() in self._kept}

    # --- running ---

    def run_node(self, n: fx.Node) -> Any:
        """Runs and writes one node."""
        self._node = n
        with self.writer.in_scope(n.name):
            result = super().run_node(n)
        tensors = tensors_in(result)
        if tensors and tensors[0] in self._translator.values:
            self._by_node[n.name] = self._value(tensors[0])
        for one in self._example.fixed():
            self.fixed.setdefault(one, _place(n.args[0] if is_check(n) else n))
        return result

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Writes a layer with stand-ins for its operands; another module by the calls in its forward."""
        module = self.fetch_attr(target)
        if isinstance(module, FlatLayer) and any(module.is_quantized):
            return self._layer(module, args, kwargs)
        return self._call(module.call.function if isinstance(module, FlatLayer) else module, args, kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Writes a function; a check of a frozen value only tells which sizes must not vary."""
        if self._node is not None and is_check(self._node):
            return self._example.fix(args[0])
        if target is math.sqrt and isinstance(args[0], (torch.SymInt, torch.SymFloat)):
            target = torch.sym_sqrt  # math.sqrt would make a number of the size
        return self._call(target, args, kwargs)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Writes a method of a tensor."""
        return self._call(MethodCall(target), args, kwargs)

    def output(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Notes the results of the graph."""
        result = super().output(target, args, kwargs)
        self.results = output_tensors(result)
        self._results = [self._value(tensor) for tensor in self.results]
        return result

    def _call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._node in self._constants:
            with torch.no_grad():
                return function(*args, **kwargs)
        for tensor in tensors_in((args, kwargs)):
            if tensor not in self._translator.values:  # the call is no constant, although its operands are
                self._translator.values.bind(tensor, self._value(tensor))
        if not is_known(function) and function is not with_item:  # a user's function is written as a whole
            return self._translator.write_whole(function, args, kwargs)
        with self._translator:
            return function(*args, **kwargs)

    def _layer(self, layer: FlatLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operands = [
            self._stand_in(x) if is_quantized and isinstance(x, Tensor) else (x, None)
            for x, is_quantized in zip(layer.call.inputs(args, kwargs), layer.is_quantized, strict=True)
        ]
        args, kwargs = layer.call.substitute(args, kwargs, [x for x, _ in operands])
        self._translator.layer = layer.name
        with self.writer.in_scope(layer.name) as nodes:
            result = self._call(layer.call.function, args, kwargs)
            self._give_nodes(result)
        self._translator.layer = None
        found = tensors_in(result)
        self._bodies[layer.name] = _Body(
            nodes=nodes,
            result=self._value(found[0]) if found else None,
            operands={index: value for index, (_, value) in enumerate(operands) if value is not None},
        )
        return result

    def _stand_in(self, x: Tensor) -> tuple[Tensor, ir.Value]:
        """Returns an alias of ``x`` with a separate value, which shows which nodes read this operand of the layer."""
        alias, value = x.detach(), ir.Value()
        self._sources[value] = self._value(x)
        self._translator.values.bind(alias, value)
        return alias, value

    def _give_nodes(self, result: Any) -> None:
        """Writes an Identity if the layer returns an operand, since a layer needs a node with its name."""
        for tensor in tensors_in(result):
            value = self._translator.values.find(tensor)
            if value in self._sources:
                self._translator.values.bind(tensor, self.writer.op("Identity", value))

    def _value(self, tensor: Tensor) -> ir.Value:
        found = self._translator.values.find(tensor)
        return self.writer.initializer(tensor, self._name_of_constant(tensor)) if found is None else found

    def _name_of_constant(self, tensor: Tensor) -> str:
        return self._names.get(id(tensor), "")

    def _note_data_read(self, call: str) -> None:
        assert self._node is not None
        self.data_reads.setdefault(f"{_place(self._node)} by {call}")

    # --- the model ---

    def _finish(self, names: Sequence[str] | None) -> ir.Model:
        order = {node: index for index, node in enumerate(self.writer.nodes)}
        places = {
            layer: {index: read_places(value, order) for index, value in body.operands.items()}
            for layer, body in self._bodies.items()
        }
        for value, source in self._sources.items():
            ir.convenience.replace_all_uses_with(value, source)
        results = [self._sources.get(value, value) for value in self._results]
        inputs = [str(one.name) for one in self.writer.inputs]
        model = self.writer.model(results, output_names(names, len(results), inputs))
        self._kept = kept = set(model.graph)
        bodies = {layer: [node for node in body.nodes if node in kept] for layer, body in self._bodies.items()}
        layers = {
            layer: (main_node(nodes, self._bodies[layer].result), nodes) for layer, nodes in bodies.items() if nodes
        }
        name_nodes(model, layers, {})
        name_values(model)
        write_sites(model, {layer: _site(nodes, places[layer], kept) for layer, (_, nodes) in layers.items()})
        return model


def _place(node: Any) -> str:
    """Returns the node's name for a message, with the user's line if it is known."""
    line = " ".join((node.stack_trace or "").split())
    return f"'{node.name}'{f' ({line})' if line else ''}"


def _site(
    nodes: Sequence[ir.Node], places: Mapping[int, Sequence[tuple[ir.Node, int]]], kept: set[ir.Node]
) -> LayerSite:
    return LayerSite(
        nodes=tuple(str(node.name) for node in nodes),
        inputs={
            index: tuple((str(node.name), at) for node, at in found if node in kept) for index, found in places.items()
        },
    )


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields parameters and buffers by name, without the name of the wrapper around a layer's function."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        yield name.replace(".function.", "."), tensor
