"""The hardware's graph rules 2 to 4 (SPEC 13.1, manual: AMCT Pytorch量化约束说明). Rule 1 is checked by config.

The texts are the manual's. The FX path warns of violations, the dynamic path raises them all at once.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..config.quant_config import LayerConfig, QuantConfig, QuantizerConfig
from ..graph import Edge, OpGraph, OpNode, Skip
from ..ops.desc import Role
from .planner import settings_of

_NO_COMMAND_ROLES = (Role.MOVEMENT, Role.SHAPE)


def find_violations(graph: OpGraph, config: QuantConfig) -> list[Skip]:
    """Returns each violated rule as (layer, text), once, in graph order, siblings first."""
    found = (_sibling_conflicts(graph, config), _no_command_conflicts(graph, config), _unquantized_cube(graph, config))
    return list(dict.fromkeys(one for violations in found for one in violations))


def _sibling_conflicts(graph: OpGraph, config: QuantConfig) -> Iterator[Skip]:
    readers: dict[str, list[tuple[OpNode, Edge]]] = {}
    for node in graph.quantizable:
        for edge in node.edges:
            readers.setdefault(edge.producer, []).append((node, edge))
    for producer, edges in readers.items():
        first, *others = edges
        for other in others:
            setting = _difference(_input_settings(config, *first), _input_settings(config, *other))
            if setting:
                text = (
                    f"Outputs {_named(first[0].name)} and {_named(other[0].name)} of layer {_named(producer)}"
                    f" should have consistent {setting}"
                )
                yield Skip(other[0].name, text)


def _no_command_conflicts(graph: OpGraph, config: QuantConfig) -> Iterator[Skip]:
    for node in graph.quantizable:
        if node.op is None or node.op.role not in _NO_COMMAND_ROLES:
            continue
        for consumer, edge in _quantizable_consumers(graph, node.name):
            setting = _difference(_input_settings(config, node, node.edges[0]), _input_settings(config, consumer, edge))
            if setting:
                yield Skip(
                    consumer.name,
                    f"Layer {consumer.name} should have consistent {setting} with no command layer {node.name}",
                )


def _unquantized_cube(graph: OpGraph, config: QuantConfig) -> Iterator[Skip]:
    for node in graph:
        if node.op is not None and node.op.is_cube and _layer(config, node) is None:
            yield Skip(node.name, f"Layer {node.name} must be quantized as it is an operation calculated on CUBE")


def _quantizable_consumers(graph: OpGraph, producer: str) -> Iterator[tuple[OpNode, Edge]]:
    for name in graph.consumers[producer]:
        for edge in graph[name].edges:
            if edge.producer == producer and graph[name].is_quantizable:
                yield graph[name], edge


def _input_settings(config: QuantConfig, node: OpNode, edge: Edge) -> QuantizerConfig | None:
    layer = _layer(config, node)
    return None if layer is None else layer.activations[node.edges.index(edge)]


def _layer(config: QuantConfig, node: OpNode) -> LayerConfig | None:
    layer = config.layers.get(node.name)
    return layer if layer is not None and layer.quant_enable else None


def _difference(first: QuantizerConfig | None, second: QuantizerConfig | None) -> str | None:
    """Name of the first setting in which two inputs differ, None if they agree."""
    if first is None or second is None:
        return None if first is second else "quant_enable"
    if first.quantizer != second.quantizer:
        return "quantizer"
    left, right = settings_of(first), settings_of(second)
    return next((key for key in sorted({*left, *right}) if left.get(key) != right.get(key)), None)


def _named(layer: str) -> str:
    return f"{layer}(onnx name: {layer})"
