"""The hardware's graph rules 2 to 4 (spec 13.1). Rule 1 is checked by config.

HiSilicon's AMCT manual, chapter "Quantization constraints of AMCT PyTorch" [AMCT Pytorch量化约束说明].

The texts are those of that chapter. The FX path warns of violations, the dynamic path raises them all at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ..config.layers.quant_config import QuantConfig, QuantizerConfig
from ..graph import OpGraph, OpNode
from ..ops.desc import Role
from .configured_graph import QUANT_ENABLE, ConfiguredGraph, LayerInput, difference, inputs_of


@dataclasses.dataclass(frozen=True)
class Violation:
    """One broken rule.

    Attributes:
      rule: Number of the rule in spec 13.1.
      name: The layer to change.
      reason: The text of HiSilicon's AMCT manual.
      repair: What to change in config.json or in the model.
    """

    rule: int
    name: str
    reason: str
    repair: str


def find_violations(graph: OpGraph, config: QuantConfig, *, allows_cube_only: bool = False) -> list[Violation]:
    """Returns each violated rule, once, in graph order, siblings first.

    With ``allows_cube_only`` a configuration that quantizes operations of the CUBE only may leave others beside them in
    float.
    """
    rules = _Rules(graph, config, allows_cube_only)
    found = (rules.sibling_conflicts(), rules.no_command_conflicts(), rules.unquantized_cube())
    return list(dict.fromkeys(one for violations in found for one in violations))


class _Rules:
    """The rules on one model and its configuration."""

    def __init__(self, graph: OpGraph, config: QuantConfig, allows_cube_only: bool) -> None:
        self._model = ConfiguredGraph(graph, config)
        self._graph = graph
        self._allows_cube_only = allows_cube_only

    def sibling_conflicts(self) -> Iterator[Violation]:
        for producer, (first, *others) in self._model.readers.items():
            for other in others:
                setting = self._difference(first, other)
                if setting:
                    text = (
                        f"Outputs {self._named(first)} and {self._named(other)} of layer"
                        f" {_named(self._graph[producer])} should have consistent {setting}"
                    )
                    yield Violation(2, self._graph[other.layer].layer, text, self._adapt(other, first, setting))

    def no_command_conflicts(self) -> Iterator[Violation]:
        for node in self._graph.quantizable:
            if node.is_no_command:
                for behind in self._model.behind(node):
                    yield from self._conflict(node, behind)

    def unquantized_cube(self) -> Iterator[Violation]:
        for node in self._graph:
            if node.is_cube and node.is_default_enabled and not node.is_dead and self._model.layer(node.name) is None:
                # The FX path knows no ONNX name, so the text has the layer name only.
                name = _named(node) if node.onnx_name else node.name
                text = f"Layer {name} must be quantized as it is an operation calculated on CUBE"
                yield Violation(4, node.layer, text, _enable(node))

    def _conflict(self, node: OpNode, behind: LayerInput) -> Iterator[Violation]:
        for own in inputs_of(node):
            setting = self._difference(own, behind)
            if setting:
                consumer = self._graph[behind.layer]
                names = (_named(one) if one.onnx_name else one.name for one in (consumer, node))
                text = "Layer {} should have consistent {} with no command layer {}"
                first, second = names
                repair = self._adapt(own, behind, setting)
                yield Violation(3, consumer.layer, text.format(first, setting, second), repair)
                return

    def _named(self, one: LayerInput) -> str:
        return _named(self._graph[one.layer])

    def _difference(self, first: LayerInput, second: LayerInput) -> str | None:
        if self._allows_cube_only:
            setting = self._model.difference(first, second)
        else:
            setting = difference(self._model.settings(first), self._model.settings(second))
        is_allowed = setting == QUANT_ENABLE and (self._stays_float(first) or self._stays_float(second))
        return None if is_allowed else setting

    def _stays_float(self, one: LayerInput) -> bool:
        """Whether the layer is off and a generated configuration does not quantize it, like a node of no known type."""
        return self._model.layer(one.layer) is None and not self._graph[one.layer].is_on_by_default

    def _adapt(self, wrong: LayerInput, model: LayerInput, setting: str) -> str:
        """Returns the change that gives the input ``wrong`` the settings of the input ``model``."""
        op = self._graph[wrong.layer].op
        if op is not None and op.role is Role.MATMUL:  # the chip fixes the settings of a matmul, so the other adapts
            wrong, model = model, wrong
        if setting == QUANT_ENABLE:
            off = wrong if self._model.layer(wrong.layer) is None else model
            return _enable(self._graph[off.layer])
        given = self._model.settings(model)
        value = None if given is None else _value(given, setting)
        wanted = "as it is" if value is None else f"{_json(value)}, as it is"
        return (
            f'in config.json give "{self._graph[wrong.layer].layer}" in "activation_quant_params"[{wrong.index}]'
            f' the "{setting}" {wanted} in "{self._graph[model.layer].layer}"[{model.index}]'
        )


def _enable(node: OpNode) -> str:
    if node.is_quantizable:
        return f'in config.json set "{node.layer}": {{"quant_enable": true, ...}}, in a cfg take it out of skip_layers'
    if node.op is None:
        return (
            "if it is called as a function, make it a module of the model, so that it has a name; a module that is no"
            " layer (nn.GRUCell, nn.Conv3d) must be written with layers (nn.Linear, nn.Conv2d), or use"
            " create_quant_config_fx, which leaves it in float"
        )
    return f"it cannot be quantized: {node.unquantizable}"


def _value(config: QuantizerConfig, setting: str) -> object:
    if setting == "quantizer":
        return config.quantizer
    if setting == "search_range":
        return [config.args.get("search_start"), config.args.get("search_end")]
    return config.args.get(setting)


def _json(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def _named(node: OpNode) -> str:
    return f"{node.name}(onnx name: {node.onnx_name or node.name})"
