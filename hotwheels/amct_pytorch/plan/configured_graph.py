"""ConfiguredGraph: a model's operations with their settings, and the inputs for which the converter wants one grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cached_property

from ..config.layers.quant_config import LayerConfig, QuantConfig, QuantizerConfig
from ..graph import Edge, OpGraph, OpNode
from .planner import settings_of

QUANT_ENABLE = "quant_enable"
# How config.json of the dynamic path spells them.
_SPELLINGS = {"search_start": "search_range", "search_end": "search_range", "qscheme": "with_offset"}


@dataclasses.dataclass(frozen=True)
class LayerInput:
    """One quantizable input of a layer, whether it is quantized or not.

    Attributes:
      layer: Name of the node; for a layer with several uses, the name of one of its nodes.
      index: Position among the layer's quantizable inputs.
    """

    layer: str
    index: int


@dataclasses.dataclass(frozen=True)
class ConfiguredGraph:
    """A model and its configuration, for the rules between layers.

    Attributes:
      graph: The operations.
      config: The settings of the quantizable operations.
      handed_on: Nodes that return their input unchanged (``x.float()``), so that no exported file has them, each with
        the node that makes the tensor. Only the FX path fills this.
    """

    graph: OpGraph
    config: QuantConfig
    handed_on: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def edge(self, one: LayerInput) -> Edge:
        """Returns the edge of the input."""
        return self.graph[one.layer].edges[one.index]

    def layer(self, name: str) -> LayerConfig | None:
        """Returns the settings of the node ``name``; None if the node stays in float."""
        layer = self.config.layers.get(self.graph[name].layer)
        return layer if layer is not None and layer.quant_enable and self.graph[name].is_quantizable else None

    def settings(self, one: LayerInput) -> QuantizerConfig | None:
        """Returns how an input is quantized; None if the input stays in float."""
        layer = self.layer(one.layer)
        return None if layer is None else layer.activations[one.index]

    @cached_property
    def readers(self) -> Mapping[str, tuple[LayerInput, ...]]:
        """For each tensor, by the node that makes the tensor: the quantizable inputs that read it, in graph order."""
        found: dict[str, list[LayerInput]] = {}
        for node in self.graph.quantizable:
            for one in inputs_of(node):
                producer = self.edge(one).producer
                found.setdefault(self.handed_on.get(producer, producer), []).append(one)
        return {producer: tuple(inputs) for producer, inputs in found.items()}

    def behind(self, node: OpNode) -> Iterator[LayerInput]:
        """Yields the inputs that read the result of ``node`` or, if the result is a tuple, one of its tensors."""
        yield from self.readers.get(node.name, ())
        for name in self.graph.consumers[node.name]:
            if self.graph[name].is_pick:
                yield from self.behind(self.graph[name])

    @cached_property
    def is_cube_only(self) -> bool:
        """Whether layers are quantized, and all of them are operations of the CUBE."""
        quantized = [node for node in self.graph.quantizable if self.layer(node.name) is not None]
        return bool(quantized) and all(node.is_cube for node in quantized)

    def difference(self, first: LayerInput, second: LayerInput) -> str | None:
        """Returns the name of the first setting in which two inputs differ, None if they agree.

        Where only operations of the CUBE are quantized, the others are in float on purpose: that is no difference.
        """
        setting = difference(self.settings(first), self.settings(second))
        return None if setting == QUANT_ENABLE and self.is_cube_only else setting

    @cached_property
    def _links(self) -> Mapping[LayerInput, frozenset[LayerInput]]:
        groups = [*self.readers.values(), *self._uses()]
        for node in self.graph.quantizable:
            if node.is_no_command:
                groups += [(own, one) for own in inputs_of(node) for one in self.behind(node)]
        links: dict[LayerInput, set[LayerInput]] = {}
        for group in groups:
            for one in group:
                links.setdefault(one, set()).update(group)
        return {one: frozenset(others) for one, others in links.items()}

    def _uses(self) -> Iterator[tuple[LayerInput, ...]]:
        """Yields, for each input of a layer, that input in all uses of the layer."""
        for nodes in self.graph.uses.values():
            yield from zip(*map(inputs_of, nodes), strict=True)

    def one_grid(self, *inputs: LayerInput) -> tuple[LayerInput, ...]:
        """Returns ``inputs`` and all inputs that rules 2 and 3 of spec 13.1 connect to them, directly or indirectly."""
        found = dict.fromkeys(inputs)
        todo = list(inputs)
        while todo:
            new = sorted(self._links[todo.pop()] - found.keys(), key=self._place)
            found.update(dict.fromkeys(new))
            todo += new
        return tuple(sorted(found, key=self._place))

    @cached_property
    def _order(self) -> Mapping[str, int]:
        return {name: place for place, name in enumerate(self.graph.nodes)}

    def _place(self, one: LayerInput) -> tuple[int, int]:
        return self._order[one.layer], one.index


def inputs_of(node: OpNode) -> tuple[LayerInput, ...]:
    """Returns the quantizable inputs of ``node`` in call order."""
    return tuple(LayerInput(node.name, index) for index in range(len(node.edges)))


def difference(first: QuantizerConfig | None, second: QuantizerConfig | None) -> str | None:
    """Returns the name of the first setting in which two inputs differ, None if they agree."""
    if first is None or second is None:
        return None if first is second else QUANT_ENABLE
    if first.quantizer != second.quantizer:
        return "quantizer"
    left, right = settings_of(first), settings_of(second)
    key = next((key for key in sorted({*left, *right}) if left.get(key) != right.get(key)), None)
    return None if key is None else _SPELLINGS.get(key, key)
