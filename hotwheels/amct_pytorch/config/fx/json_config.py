"""QuantConfig <-> config.json, one entry per layer (spec 8.4)."""

from __future__ import annotations

from functools import partial
from typing import Any

from ...errors import ConfigError
from ...files import PathLike, write_text_atomic
from ...graph import OpGraph, OpNode
from ..arguments.coercion import as_object, report_unknown
from ..arguments.section import Section, read_section
from ..document_kind import FX_DOCUMENT, check_document_kind
from ..files.tolerant_json import dump_json, read_json
from ..layers.defaults import default_layer
from ..layers.layer_entry import (
    SWITCHES,
    check_known,
    read_activations,
    read_switch,
    read_weight,
    without_weight_operand,
)
from ..layers.layer_rules import ACTIVATION_PARAMS, WEIGHT_PARAMS, apply_rules
from ..layers.quant_config import LayerConfig, QuantConfig, QuantizerConfig
from ..layers.refine_config import REFINE, is_refine_section, read_refine, refine_section

# The text of HiSilicon's AMCT manual, kept literally (check 1 of spec 13.1): scripts look for it.
NO_LAYER_ENABLED = "No quant enable layer in quant config file, please check the quant config file."
SEE_CHECK = "check_model(model) lists what can be quantized in the model, what cannot, and why."

_LAYER_KEYS = (*SWITCHES, ACTIVATION_PARAMS, WEIGHT_PARAMS)


def read_config(path: PathLike, graph: OpGraph) -> QuantConfig:
    """Returns the checked configuration in ``path`` for the model ``graph``, in graph order.

    A layer without an entry in the file has none in the result: it is not quantized. A missing section gets its
    default. Values of a layer with ``quant_enable`` false are not checked.

    Raises:
      FileNotFoundError: There is no such file.
      ConfigError: Not JSON, a layer that the model does not have, or a wrong value.
    """
    document = as_object(read_json(path), f"The document in {path}")
    check_document_kind(document, FX_DOCUMENT, graph.nodes, path)
    has_section = is_refine_section(document, graph)
    refine = read_refine(document[REFINE], f"{path}: {REFINE}") if has_section else None
    for name in (name for name in document if not (has_section and name == REFINE)):
        check_known(name, graph, str(path))
    layers = {
        name: _layer(node, document[name], f"Layer '{name}' in {path}")
        for name, node in graph.layers.items()
        if name in document
    }
    return QuantConfig(layers, refine)


def write_config(config: QuantConfig, path: PathLike) -> None:
    """Writes strict JSON: UTF-8, 4-space indent, one key per layer in the order of ``config``, then its ``refine``.

    Raises:
      ConfigError: There is a ``refine`` section, and a layer has that name.
    """
    document = {name: _layer_document(layer) for name, layer in config.layers.items()}
    write_text_atomic(path, dump_json(document | refine_section(config.refine, document, path)))


def check_any_enabled(config: QuantConfig, path: PathLike | None = None) -> None:
    """Raises ConfigError if no layer is enabled; called before a model is quantized.

    Args:
      config: The configuration of a model.
      path: Its file, for the message; None if there is none.
    """
    if not any(layer.quant_enable for layer in config.layers.values()):
        entries = f"{len(config.layers)} entries for layers of the model, none of which is on" if config.layers else ""
        found = f" '{path}' has {entries or 'no entry for a layer of the model'}." if path is not None else ""
        raise ConfigError(f"{NO_LAYER_ENABLED}{found} {SEE_CHECK}")


def _layer(node: OpNode, entry: object, where: str) -> LayerConfig:
    given = as_object(entry, where)
    report_unknown(given, _LAYER_KEYS, where)
    if not any(given.get(key) is not None for key in SWITCHES):
        raise ConfigError(f"{where} has no quant_enable; it is required: true or false.")
    default, is_enabled = default_layer(node), read_switch(given, where)
    read = partial(_named_section, is_enabled=is_enabled)
    layer = LayerConfig(
        quant_enable=is_enabled,
        activations=without_weight_operand(
            node,
            read_activations(given.get(ACTIVATION_PARAMS), default.activations, f"{where}, {ACTIVATION_PARAMS}", read),
            where,
        ),
        weight=read_weight(given.get(WEIGHT_PARAMS), default.weight, where, WEIGHT_PARAMS, read),
    )
    return apply_rules(node, layer, where)


def _named_section(value: object, where: str, *, is_enabled: bool) -> Section:
    """Reads a section; an enabled layer must name its quantizer, since there is no lower level to inherit it from."""
    section = read_section(value, where)
    if is_enabled and not section.quantizer:
        raise ConfigError(f"{where} has no quantizer; it is required, such as 'UlqFakeQuantize'.")
    return section


def _layer_document(layer: LayerConfig) -> dict[str, Any]:
    document: dict[str, Any] = {
        "quant_enable": layer.quant_enable,
        ACTIVATION_PARAMS: [_quantizer_document(one) for one in layer.activations],
    }
    if layer.weight is not None:
        document[WEIGHT_PARAMS] = _quantizer_document(layer.weight)
    return document


def _quantizer_document(config: QuantizerConfig) -> dict[str, Any]:
    return {"quantizer": config.quantizer, "quantizer_args": dict(config.args)}
