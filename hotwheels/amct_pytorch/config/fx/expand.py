"""SimpleConfig -> QuantConfig: the settings of every layer, from defaults and rules (spec 8.5). Pure, reads no file.

By increasing priority: defaults, common_config, om.json, override_layer_types, override_layer_configs, skip_layers.
"""

from __future__ import annotations

import dataclasses

from ...graph import OpGraph, OpNode
from ...log import get_logger
from ..layers.defaults import default_layer
from ..layers.layer_entry import report_names
from ..layers.layer_rules import apply_rules
from ..layers.layer_types import is_of_type, report_types
from ..layers.quant_config import LayerConfig, QuantConfig
from ..layers.rule import Rule, names_of, overlay, with_om_widths
from .simple_config import SimpleConfig

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


def _report_unmatched(graph: OpGraph, simple: SimpleConfig) -> None:
    report_names(graph, simple.skip_layers, f"skip_layers of {simple.source}")
    report_names(graph, names_of(simple.layers), f"override_layer_configs of {simple.source}")
    report_types(graph, names_of(simple.types), f"override_layer_types of {simple.source}")
    for name in (name for name in simple.om_layers if name not in graph.nodes):
        _log.debug("The mapping file of %s: layer '%s' is not in the model.", simple.source, name)
