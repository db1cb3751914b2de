"""FloatPrefix: replays what lies behind one layer, again and again, on the float values in front of the layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx

from ...nn.mode import Mode
from ...nn.quantized_layer import QuantizedLayer
from ...torch_private import pytree, version_of
from ..layers.calibration_forward import any_forward
from .quant_graph_module import QuantGraphModule, positional
from .read.called import callable_of

Values = dict[fx.Node, Any]


class WritesInPlace(Exception):
    """A replay has changed a value that the next one needs."""


class FloatPrefix:
    """One float forward of a graph in eval mode, which stops in front of each quantized layer.

    What is computed in front of a layer does not depend on the layer: of a forward with one quantized layer only the
    nodes from there on run. The values are those of a whole forward, bit for bit.
    """

    def __init__(self, graph: QuantGraphModule, inputs: tuple[Any, ...]) -> None:
        self._graph = graph
        self._inputs = positional(graph, inputs, {})
        self._nodes = list(graph.graph.nodes)
        self._last_use = _last_uses(self._nodes)

    def outputs(self) -> Iterator[tuple[QuantizedLayer, Any]]:
        """Yields each layer with what the graph returns while that layer alone is in fake_quant.

        The layers are in float before and after.

        Raises:
          WritesInPlace: The graph changes its values in place, so that they cannot be used again.
        """
        interpreter = fx.Interpreter(self._graph, garbage_collect_values=False)
        interpreter.args_iter = iter(self._inputs)
        values: Values = {}
        with self._graph.keeping_inputs():
            for index, node in enumerate(self._nodes):
                layer = callable_of(self._graph, node) if node.op == "call_module" else None
                if isinstance(layer, QuantizedLayer):
                    yield layer, self._replay(interpreter, layer, index, values)
                if node.op == "output":
                    return
                self._run(interpreter, node, values)

    def _replay(self, interpreter: fx.Interpreter, layer: QuantizedLayer, start: int, values: Values) -> Any:
        before = _versions(values)
        own = dict(values)
        layer.mode = Mode.FAKE_QUANT
        try:
            with any_forward():
                for node in self._nodes[start:]:
                    result = self._run(interpreter, node, own)
        finally:
            layer.mode = Mode.FLOAT
        if _versions(values) != before:
            raise WritesInPlace
        return result

    def _run(self, interpreter: fx.Interpreter, node: fx.Node, values: Values) -> Any:
        interpreter.env = values
        result = values[node] = interpreter.run_node(node)
        for dead in self._last_use.get(node, ()):
            values.pop(dead, None)
        return result


def _versions(values: Values) -> list[int]:
    return [version_of(one) for one in pytree.tree_leaves(list(values.values())) if isinstance(one, Tensor)]


def _last_uses(nodes: list[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """For each node the values which no later node reads."""
    last: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        last[node] = node
        last |= dict.fromkeys(node.all_input_nodes, node)
    dropped: dict[fx.Node, list[fx.Node]] = {}
    for value, user in last.items():
        dropped.setdefault(user, []).append(value)
    return dropped
