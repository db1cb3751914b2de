"""Layers in a config.json of the dynamic path <-> LayerConfig, for both kinds of document (spec 9.2, 9.3).

Entries hold the content of the document with this package's names of classes and arguments. A `Translation` adds the
arguments that follow from the document's global settings and from the model, when the quantizers are made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from ...errors import ConfigError
from ...graph import Edge, OpGraph, OpNode
from ...log import get_logger
from ...ops.desc import Role
from ..arguments.algorithms import SEARCH_RANGE
from ..arguments.coercion import as_object, as_text, report_unknown
from ..arguments.quantizer_check import effective_args
from ..arguments.section import Section
from ..layers.defaults import default_layer
from ..layers.layer_entry import SWITCHES, check_known, read_activations, read_switch, read_weight
from ..layers.layer_rules import apply_rules
from ..layers.quant_config import LayerConfig, QuantConfig, QuantizerConfig
from .layer_dialect import Dialect, TensorKeys

# From an entry of the document to the complete settings of an input's quantizer.
Translation: TypeAlias = Callable[[OpNode, QuantizerConfig], QuantizerConfig]

_log = get_logger(__name__)
_TRANSLATED = ("observer", "batch_num", "qscheme", "with_offset")  # arguments that a Translation may add
_NOT_IN_ENTRIES = ("observer", "batch_num", "qscheme", "object_layer")
_SPELLINGS = {"cali_min_distance": "min_distance", "zero_point": "offset"}
_RELUS = ("relu", "relu6")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerContext:
    """The context in which the entry of a layer is read and completed.

    Attributes:
      graph: The model.
      dialect: The kind of document.
      translation: See `Translation`.
      source: Name of the document, for messages.
    """

    graph: OpGraph
    dialect: Dialect
    translation: Translation
    source: str

    def where(self, node: OpNode) -> str:
        """Returns the beginning of messages about a layer."""
        return f"Layer '{node.layer}' in {self.source}"


def read_layers(document: Mapping[str, Any], context: LayerContext) -> dict[str, LayerConfig]:
    """Returns the checked and completed entries of ``document``, by layer name, in graph order.

    Raises:
      ConfigError: A layer that the model does not have, or a wrong value of an enabled layer.
    """
    for name in document:
        check_known(name, context.graph, context.source)
    return {
        name: settle(node, _read_layer(node, document[name], context), context)
        for name, node in context.graph.layers.items()
        if name in document
    }


def bare_layer(node: OpNode, dialect: Dialect) -> LayerConfig:
    """Returns the default algorithms of a layer, without arguments."""
    default = default_layer(node)
    data, weight = (Section(keys.default_quantizer) for keys in (dialect.activation, dialect.weight))
    return LayerConfig(
        quant_enable=default.quant_enable,
        activations=tuple(data.over(one) for one in default.activations),
        weight=None if default.weight is None else weight.over(default.weight),
    )


def settle(node: OpNode, layer: LayerConfig, context: LayerContext) -> LayerConfig:
    """Returns the complete entries of a layer; those of an enabled layer are checked and corrected.

    Raises:
      ConfigError: See `apply_rules`.
    """
    layer = _complete(node, layer, context)
    if not layer.quant_enable:
        return layer
    keys = (context.dialect.activation.section, context.dialect.weight.section)
    checked = apply_rules(node, translate(node, layer, context.translation), context.where(node), keys)
    pairs = zip(checked.activations, layer.activations, strict=True)
    return dataclasses.replace(checked, activations=tuple(_without_translation(one, entry) for one, entry in pairs))


def to_quantizers(layers: Mapping[str, LayerConfig], graph: OpGraph, translation: Translation) -> QuantConfig:
    """Returns the settings of all quantizers for the entries of a checked document."""
    return QuantConfig({name: translate(graph.layers[name], layer, translation) for name, layer in layers.items()})


def translate(node: OpNode, layer: LayerConfig, translation: Translation) -> LayerConfig:
    """Returns the settings of a layer's quantizers; a layer that is not enabled is returned unchanged."""
    if not layer.quant_enable:
        return layer
    return dataclasses.replace(layer, activations=tuple(translation(node, one) for one in layer.activations))


def is_matmul(node: OpNode) -> bool:
    """Whether the node is a matmul, whose inputs never have an offset (spec 5.4)."""
    return node.op is not None and node.op.role is Role.MATMUL


def layer_document(layer: LayerConfig, dialect: Dialect) -> dict[str, Any]:
    """Returns the entry of a layer in the document."""
    document: dict[str, Any] = {
        dialect.switch: layer.quant_enable,
        dialect.activation.section: [_entry_document(one, dialect.activation) for one in layer.activations],
    }
    if layer.weight is not None:
        document[dialect.weight.section] = _entry_document(layer.weight, dialect.weight)
    return document


def _read_layer(node: OpNode, entry: object, context: LayerContext) -> LayerConfig:
    where, dialect = context.where(node), context.dialect
    data, weight = dialect.activation, dialect.weight
    given = as_object(entry, where)
    report_unknown(given, (*SWITCHES, data.section, weight.section), where)
    default = bare_layer(node, dialect)
    is_enabled = read_switch(given, where)
    read_data = partial(_read_section, keys=data, is_enabled=is_enabled)
    read_weights = partial(_read_section, keys=weight, is_enabled=is_enabled)
    return LayerConfig(
        quant_enable=is_enabled,
        activations=read_activations(
            given.get(data.section), default.activations, f"{where}, {data.section}", read_data
        ),
        weight=read_weight(given.get(weight.section), default.weight, where, weight.section, read_weights),
    )


def _read_section(value: object, where: str, *, keys: TensorKeys, is_enabled: bool) -> Section:
    given = dict(as_object(value, where))
    name = given.pop(keys.algorithm, None)
    for key in _NOT_IN_ENTRIES:
        if given.pop(key, None) is not None:
            _log.warning_of_place(
                where, f"key '{key}' is ignored; it follows from the algorithm and the global settings."
            )
    if name is None:
        return Section(None, given)
    if name in keys.readable:
        return Section(keys.quantizer_of(name), given)
    if is_enabled:
        msg = f"{where}: {keys.algorithm} is {name!r}; allowed: {', '.join(keys.readable)}."
        raise ConfigError(msg)
    return Section(as_text(name, f"{where}: {keys.algorithm}"), given)


def _complete(node: OpNode, layer: LayerConfig, context: LayerContext) -> LayerConfig:
    """Returns the entries with every argument that is written; some defaults depend on neighbours of the layer."""
    dialect = context.dialect
    assert node.op is not None, f"'{node.name}' is not quantizable"
    # The algorithm's own default of channel_wise is True, except for LNQ, which has one scale.
    facts = {} if node.op.allows_channel_wise else {"channel_wise": False}
    return dataclasses.replace(
        layer,
        activations=tuple(
            _completed(node, one, dialect.activation, _data_facts(node, index, context), context)
            for index, one in enumerate(layer.activations)
        ),
        weight=layer.weight and _completed(node, layer.weight, dialect.weight, facts, context),
    )


def _completed(
    node: OpNode, config: QuantizerConfig, keys: TensorKeys, facts: Mapping[str, Any], context: LayerContext
) -> QuantizerConfig:
    names = keys.algorithms.get(keys.algorithm_of(config.quantizer), ())
    bare = QuantizerConfig(config.quantizer)
    whole = bare if keys.is_weight else context.translation(node, bare)  # adds the observer, which has the defaults
    defaults = {**effective_args(whole, keys.is_weight), **facts}
    given = _under_our_names(config.args, names)
    return QuantizerConfig(config.quantizer, {**{name: defaults[name] for name in names}, **given})


def _under_our_names(args: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Drops None values and renames aliases to the names used in ``names``."""
    ours = {_SPELLINGS[name]: name for name in names if name in _SPELLINGS}
    present = {key: value for key, value in args.items() if value is not None}
    aliased = {ours[key]: value for key, value in present.items() if key in ours}
    given = aliased | {key: value for key, value in present.items() if key not in ours}
    ends = given.get(SEARCH_RANGE)
    if "search_start" in names and isinstance(ends, list) and len(ends) == 2:  # the check reports anything else
        del given[SEARCH_RANGE]
        return {"search_start": ends[0], "search_end": ends[1], **given}
    return given


def _data_facts(node: OpNode, index: int, context: LayerContext) -> dict[str, Any]:
    # `apply_rules` reports a wrong number of entries.
    edges = [use.edges[index] for use in context.graph.uses[node.layer] if index < len(use.edges)]
    is_positive = bool(edges) and all(_is_behind_relu(edge, context.graph) for edge in edges) and not is_matmul(node)
    return {"zero_point": 0, "fixed_min": is_positive}


def _is_behind_relu(edge: Edge, graph: OpGraph) -> bool:
    producer = graph[edge.producer]
    # A ReLU6 is a Clip in ONNX, as other functions are, so only a ReLU6 that is a module is recognised.
    return producer.onnx_type == "Relu" or (producer.op is not None and producer.op.name in _RELUS)


def _without_translation(checked: QuantizerConfig, entry: QuantizerConfig) -> QuantizerConfig:
    """Returns the checked settings without the arguments that a Translation has added."""
    own = {key: value for key, value in checked.args.items() if key in entry.args or key not in _TRANSLATED}
    return QuantizerConfig(checked.quantizer, own)


def _entry_document(config: QuantizerConfig, keys: TensorKeys) -> dict[str, Any]:
    name = keys.algorithm_of(config.quantizer)
    order = [key for key in keys.algorithms.get(name, ()) if key in config.args]
    spelled = _spelled({key: config.args[key] for key in order} | dict(config.args))
    # The name is omitted if there is only one algorithm, as in the samples of HiSilicon's AMCT manual.
    return spelled if [name] == list(keys.algorithms) else {keys.algorithm: name, **spelled}


def _spelled(args: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments with the names of the documents, both ends of the search in one list."""
    is_range = {"search_start", "search_end"} <= args.keys()
    spelled: dict[str, Any] = {}
    for key, value in args.items():
        if is_range and key == "search_start":
            spelled[SEARCH_RANGE] = [value, args["search_end"]]
        elif not (is_range and key == "search_end"):
            spelled[_SPELLINGS.get(key, key)] = value
    return spelled
