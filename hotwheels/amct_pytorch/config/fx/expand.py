"""SimpleConfig -> QuantConfig: the settings of every layer, from defaults and rules (spec 8.5). Pure, reads no file.

By increasing priority: defaults, common_config, om.json, override_layer_types, override_layer_configs, skip_layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from ...errors import ConfigError
from ...graph import OpGraph, OpNode
from ...log import get_logger
from ..arguments.section import Section
from ..files.om_json import UNKNOWN_WIDTH
from ..layers.defaults import default_layer
from ..layers.layer_entry import report_names, without_weight_operand
from ..layers.layer_rules import apply_rules
from ..layers.layer_types import is_of_type, report_types
from ..layers.quant_config import LayerConfig, QuantConfig, QuantizerConfig
from .simple_config import Rule, SimpleConfig

_log = get_logger(__name__)


def expand(graph: OpGraph, simple: SimpleConfig | None) -> QuantConfig:
    """Returns an entry for every quantizable layer, in graph order; None for ``simple`` gives the defaults.

    A layer name or type that does not exist gives a WARNING; a type that the model lacks, or a layer of om.json, gives
    a DEBUG line. Only values that are applied to an enabled layer are checked.

    Raises:
      ConfigError: A value is wrong, or the number of activation entries differs from the number of a layer's inputs.
    """
    simple = simple or SimpleConfig()
    _report_unmatched(graph, simple)
    layers = {name: _layer(node, simple) for name, node in graph.layers.items()}
    return QuantConfig(layers, simple.refine)


def _layer(node: OpNode, simple: SimpleConfig) -> LayerConfig:
    where = f"Layer '{node.name}' in {simple.source}"
    layer = default_layer(node)
    is_enabled = layer.quant_enable and simple.common.quant_enable is not False
    layer = dataclasses.replace(overlay(node, layer, simple.common, where), quant_enable=is_enabled)
    layer = with_om_widths(layer, simple.om_layers.get(node.name, ()))
    for rule in _matching(node, simple):
        is_enabled = rule.quant_enable is not False  # a rule that names a layer enables it
        layer = dataclasses.replace(overlay(node, layer, rule, where), quant_enable=is_enabled)
    if node.name in simple.skip_layers:
        layer = dataclasses.replace(layer, quant_enable=False)
    return apply_rules(node, layer, where)


def _matching(node: OpNode, simple: SimpleConfig) -> list[Rule]:
    by_type = [rule for rule in simple.types if any(is_of_type(node, name) for name in rule.names)]
    return by_type + [rule for rule in simple.layers if node.name in rule.names]


def overlay(node: OpNode, layer: LayerConfig, rule: Rule, where: str) -> LayerConfig:
    """Returns ``layer`` with the sections of ``rule`` in place of its own; sections that the rule lacks are kept."""
    if rule.weight is not None and layer.weight is None:
        _log.debug("%s: its weight_quant_params is ignored, the layer has no weight.", where)
    return dataclasses.replace(
        layer,
        activations=_overlay_activations(node, layer.activations, rule.activations, where),
        weight=layer.weight if rule.weight is None or layer.weight is None else rule.weight.over(layer.weight),
    )


def _overlay_activations(
    node: OpNode, lower: tuple[QuantizerConfig, ...], sections: Section | tuple[Section, ...] | None, where: str
) -> tuple[QuantizerConfig, ...]:
    if sections is None:
        return lower
    if isinstance(sections, Section):
        return tuple(sections.over(one) for one in lower)
    sections = without_weight_operand(node, sections, where)
    if len(sections) != len(lower):
        msg = (
            f"{where}: activation_quant_params has {len(sections)} entries, but the layer of type '{node.type}' has "
            f"{len(lower)} quantizable inputs. Give one entry for each, or one object for all."
        )
        raise ConfigError(msg)
    return tuple(section.over(one) for section, one in zip(sections, lower, strict=True))


def with_om_widths(layer: LayerConfig, widths: tuple[int | None, ...]) -> LayerConfig:
    """Returns ``layer`` with the converter's widths; a layer that the converter runs in float16 is disabled.

    The converter says 16 bits for every width above 8, so a configured width of 9 to 15 is kept. The converter lists
    weight and bias too, after the data inputs; these entries are ignored.
    """
    told = widths[: len(layer.activations)]
    padded = told + (UNKNOWN_WIDTH,) * (len(layer.activations) - len(told))
    activations = tuple(
        _with_om_width(one, width) if width in (8, 16) else one
        for one, width in zip(layer.activations, padded, strict=True)
    )
    is_enabled = layer.quant_enable and None not in told
    return dataclasses.replace(layer, activations=activations, quant_enable=is_enabled)


def _with_om_width(config: QuantizerConfig, width: int) -> QuantizerConfig:
    configured = config.args.get("num_bits")
    is_kept = width == 16 and str(configured) in _WIDTHS_OF_S16
    return config if is_kept else QuantizerConfig(config.quantizer, {**config.args, "num_bits": width})


_WIDTHS_OF_S16 = tuple(map(str, range(9, 16)))  # a yaml may have quotes around a number


def _report_unmatched(graph: OpGraph, simple: SimpleConfig) -> None:
    report_names(graph, simple.skip_layers, f"skip_layers of {simple.source}")
    report_names(graph, names_of(simple.layers), f"override_layer_configs of {simple.source}")
    report_types(graph, names_of(simple.types), f"override_layer_types of {simple.source}")
    for name in (name for name in simple.om_layers if name not in graph.nodes):
        _log.debug("The mapping file of %s: layer '%s' is not in the model.", simple.source, name)


def names_of(rules: Iterable[Rule]) -> list[str]:
    """Returns the names that ``rules`` apply to."""
    return [name for rule in rules for name in rule.names]
