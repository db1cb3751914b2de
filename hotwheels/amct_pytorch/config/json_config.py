"""QuantConfig <-> config.json, one entry per layer (SPEC 8.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..capacity import Capacity, read_capacity
from ..errors import ConfigError
from ..files import PathLike, write_text_atomic
from ..graph import OpGraph, OpNode
from ..log import get_logger
from .coercion import as_bool, as_object, report_unknown
from .defaults import default_layer
from .layer_names import why_unmatched
from .layer_rules import apply_rules
from .quant_config import LayerConfig, QuantConfig, QuantizerConfig
from .section import read_section
from .tolerant_json import dump_json, read_json

# The manual's text, kept literally (SPEC 13.1-1): scripts look for it.
NO_LAYER_ENABLED = "No quant enable layer in quant config file, please check the quant config file."

_log = get_logger(__name__)
_SWITCHES = ("quant_enable", "retrain_enable")  # two names of one key
_ACTIVATIONS = "activation_quant_params"
_WEIGHT = "weight_quant_params"
_LAYER_KEYS = (*_SWITCHES, _ACTIVATIONS, _WEIGHT)


def read_config(path: PathLike, graph: OpGraph, capacity: Capacity | None = None) -> QuantConfig:
    """Returns the checked configuration in ``path`` for the model ``graph``, in graph order.

    A layer without an entry has none in the result: it is not quantized. A missing section has its default, for which
    ``capacity`` is read from the installed table where it is None. Values of a layer that is off are not checked.

    Raises:
      FileNotFoundError: There is no such file.
      ConfigError: Not JSON, a layer that the model does not have, or a wrong value.
    """
    document = as_object(read_json(path), f"The document in {path}")
    capacity = capacity or read_capacity()
    for name in document:
        _check_known(name, graph, str(path))
    layers = {
        node.name: _layer(node, document[node.name], f"Layer '{node.name}' in {path}", capacity)
        for node in graph.quantizable
        if node.name in document
    }
    return QuantConfig(layers)


def write_config(config: QuantConfig, path: PathLike) -> None:
    """Writes strict JSON: UTF-8, 4-space indent, one key per layer in the order of ``config``."""
    write_text_atomic(path, dump_json({name: _layer_document(layer) for name, layer in config.layers.items()}))


def check_any_enabled(config: QuantConfig) -> None:
    """Raises ConfigError, when a model is made, if no layer is switched on."""
    if not any(layer.quant_enable for layer in config.layers.values()):
        raise ConfigError(NO_LAYER_ENABLED)


def _check_known(name: str, graph: OpGraph, source: str) -> None:
    problem = why_unmatched(name, graph)
    if problem is not None:
        raise ConfigError(f"Layer '{name}' in {source} {problem}")


def _layer(node: OpNode, entry: object, where: str, capacity: Capacity) -> LayerConfig:
    given = as_object(entry, where)
    report_unknown(given, _LAYER_KEYS, where)
    default = default_layer(node, capacity)
    layer = LayerConfig(
        quant_enable=_switch(given, where),
        activations=_activations(given.get(_ACTIVATIONS), default.activations, where),
        weight=_weight(given.get(_WEIGHT), default.weight, where),
    )
    return apply_rules(node, layer, where)


def _switch(given: Mapping[str, Any], where: str) -> bool:
    found = {key: as_bool(given[key], f"{where}: {key}") for key in _SWITCHES if given.get(key) is not None}
    if len(set(found.values())) > 1:
        raise ConfigError(f"{where}: {found}; quant_enable and retrain_enable mean the same, so they must be equal.")
    return next(iter(found.values()), True)


def _activations(given: object, defaults: tuple[QuantizerConfig, ...], where: str) -> tuple[QuantizerConfig, ...]:
    if given is None:
        return defaults
    entries = given if isinstance(given, list) else [given] * len(defaults)
    # Entries beyond the inputs are counted and reported by the layer's rules.
    padded = [*defaults, *defaults[:1] * len(entries)]
    return tuple(
        read_section(entry, f"{where}, {_ACTIVATIONS}[{index}]").over(default)
        for index, (entry, default) in enumerate(zip(entries, padded, strict=False))
    )


def _weight(given: object, default: QuantizerConfig | None, where: str) -> QuantizerConfig | None:
    if default is None:
        if given is not None:
            _log.warning("%s: %s is ignored, the layer has no weight.", where, _WEIGHT)
        return None
    return default if given is None else read_section(given, f"{where}, {_WEIGHT}").over(default)


def _layer_document(layer: LayerConfig) -> dict[str, Any]:
    document: dict[str, Any] = {
        "quant_enable": layer.quant_enable,
        _ACTIVATIONS: [_quantizer_document(one) for one in layer.activations],
    }
    if layer.weight is not None:
        document[_WEIGHT] = _quantizer_document(layer.weight)
    return document


def _quantizer_document(config: QuantizerConfig) -> dict[str, Any]:
    return {"quantizer": config.quantizer, "quantizer_args": dict(config.args)}
