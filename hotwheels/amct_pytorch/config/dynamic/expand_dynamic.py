"""Simple configurations of the dynamic path -> CalibrationConfig, RetrainConfig (spec 9.2 to 9.5). Pure, reads no file.

By increasing priority: defaults, common_config, om.json (Add layers only), override_layer_types,
override_layer_configs, skip_layers and skip_layer_types.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from ...errors import nearest_names
from ...graph import OpGraph, OpNode
from ...log import get_logger
from ..arguments.unmatched import report_unmatched
from ..layers.layer_entry import report_names
from ..layers.layer_types import is_of_type
from ..layers.quant_config import LayerConfig
from ..layers.rule import Rule, names_of, overlay, with_om_widths
from .calibration_config import CalibrationConfig, calibration_context, report_unknown_fusion_layers
from .layer_document import LayerContext, bare_layer, settle
from .retrain_config import RetrainConfig, retrain_context
from .simple_cfg import SimpleCalibrationConfig, SimpleRetrainConfig

_log = get_logger(__name__)
_OM_TYPE = "Add"  # HiSilicon's AMCT manual: om_config handles eltwise_add layers only


def expand_calibration(graph: OpGraph, simple: SimpleCalibrationConfig | None) -> CalibrationConfig:
    """Returns an entry for every quantizable layer, in graph order; None for ``simple`` gives the defaults.

    Names and types that match no layer give a WARNING. Only values that are applied to an enabled layer are checked.

    Raises:
      ConfigError: A value is wrong.
    """
    simple = simple or SimpleCalibrationConfig()
    report_unknown_fusion_layers(simple.skip_fusion_layers, graph, simple.source)
    config = CalibrationConfig(
        batch_num=simple.batch_num,
        activation_offset=simple.activation_offset,
        do_fusion=simple.do_fusion,
        skip_fusion_layers=simple.skip_fusion_layers,
        update_bn=simple.update_bn,
        bn_update_config=simple.bn_update_config,
        refine=simple.refine,
    )
    context = calibration_context(config, graph, simple.source)
    return dataclasses.replace(config, layers=_expand_layers(simple, context))


def expand_retrain(graph: OpGraph, simple: SimpleRetrainConfig | None) -> RetrainConfig:
    """Returns an entry for every quantizable layer, in graph order; None for ``simple`` gives the defaults.

    Names and types that match no layer give a WARNING. Only values that are applied to an enabled layer are checked.

    Raises:
      ConfigError: A value is wrong.
    """
    simple = simple or SimpleRetrainConfig()
    config = RetrainConfig(batch_num=simple.batch_num)
    context = retrain_context(config, graph, simple.source)
    return dataclasses.replace(config, layers=_expand_layers(simple, context))


def _expand_layers(simple: SimpleRetrainConfig, context: LayerContext) -> dict[str, LayerConfig]:
    """Returns a complete, checked entry for every quantizable layer, in graph order.

    Names and types that match no layer give a WARNING, layers of om.json a DEBUG line.

    Raises:
      ConfigError: A value of an enabled layer is wrong.
    """
    _report_unmatched(context.graph, simple)
    return {name: settle(node, _layer(node, simple, context), context) for name, node in context.graph.layers.items()}


def _is_skipped(node: OpNode, simple: SimpleRetrainConfig) -> bool:
    """Whether ``skip_layers`` or ``skip_layer_types`` of ``simple`` keep the layer in float."""
    return _is_one_of(node, simple.skip_layer_types) or any(_is_inside(node.layer, one) for one in simple.skip_layers)


def _layer(node: OpNode, simple: SimpleRetrainConfig, context: LayerContext) -> LayerConfig:
    where = context.where(node)
    layer = overlay(node, bare_layer(node, context.dialect), simple.common, where)
    if node.onnx_type == _OM_TYPE:
        layer = with_om_widths(layer, simple.om_layers.get(node.layer, ()))
    for rule in _matching(node, simple):  # a rule that names a layer enables it
        layer = dataclasses.replace(overlay(node, layer, rule, where), quant_enable=True)
    is_enabled = layer.quant_enable and not _is_skipped(node, simple)
    return dataclasses.replace(layer, quant_enable=is_enabled)


def _matching(node: OpNode, simple: SimpleRetrainConfig) -> list[Rule]:
    by_type = [rule for rule in simple.types if _is_one_of(node, rule.names)]
    return by_type + [rule for rule in simple.layers if node.layer in rule.names]


def _is_one_of(node: OpNode, types: Iterable[str]) -> bool:
    return any(is_of_type(node, name) for name in types)


def _is_inside(name: str, module: str) -> bool:
    """Whether ``name`` is the module path ``module`` or a path inside it."""
    return name == module or name.startswith(f"{module}.")


def _report_unmatched(graph: OpGraph, simple: SimpleRetrainConfig) -> None:
    containers = {name for node in graph for name in _containers(node.name)}  # a container always matches
    layers = [name for name in simple.skip_layers if name not in containers]
    report_names(graph, layers, f"skip_layers of {simple.source}")
    report_names(graph, names_of(simple.layers), f"override_layer_configs of {simple.source}")
    _report_types(graph, simple.skip_layer_types, f"skip_layer_types of {simple.source}")
    _report_types(graph, names_of(simple.types), f"override_layer_types of {simple.source}")
    for name in (name for name in simple.om_layers if name not in graph.nodes):
        _log.debug("The mapping file of %s: layer '%s' is not in the model.", simple.source, name)


def _containers(name: str) -> Iterator[str]:
    """Yields the paths of the modules that contain ``name``: ``a.b`` and ``a`` for ``a.b.c``."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _report_types(graph: OpGraph, names: Iterable[str], where: str) -> None:
    types = list(dict.fromkeys(node.onnx_type for node in graph.quantizable if node.onnx_type))
    report_unmatched(
        [name for name in names if not any(is_of_type(node, name) for node in graph.quantizable)],
        lambda name: f"{where}: the model has no quantizable layer of type '{name}'. {nearest_names(name, types)}",
    )
