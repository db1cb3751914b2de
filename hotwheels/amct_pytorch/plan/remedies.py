"""Simple configurations that follow a piece of advice without breaking rules 2 to 4 of spec 13.1 at other layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from ..config.arguments.quantizer_check import is_custom, num_bits_of
from ..config.layers.layer_rules import as_symmetric
from ..config.layers.quant_config import QuantizerConfig
from ..core.spec import NARROW_WEIGHT_BITS, SECOND_INPUT_BITS
from ..ops.desc import Role
from .advice import Document
from .configured_graph import ConfiguredGraph, LayerInput, inputs_of


def skipping(layers: Iterable[str]) -> Document:
    """Returns the configuration that leaves just these layers in float."""
    return {"skip_layers": list(layers)}


def left_in_float(model: ConfiguredGraph, layers: Iterable[str]) -> Document | None:
    """Returns the configuration that leaves ``layers`` in float, and all layers that must not be quantized beside them.

    Returns None if a CUBE operation is among them, since CUBE operations must be quantized.
    """
    found = dict.fromkeys(layers)
    todo = list(found)
    while todo:
        tied = model.one_grid(*inputs_of(model.graph[todo.pop()]))
        new = [one.layer for one in tied if one.layer not in found and model.layer(one.layer) is not None]
        found.update(dict.fromkeys(new))
        todo += dict.fromkeys(new)
    if any(model.graph[name].is_cube for name in found):
        return None
    return skipping(name for name in model.graph.nodes if name in found)


def widened(model: ConfiguredGraph, inputs: Iterable[LayerInput], num_bits: int) -> Document | None:
    """Returns the configuration that gives ``inputs``, and all inputs on one grid with them, ``num_bits`` bits or more.

    Returns None if one of them cannot have that width.
    """
    given = {one: settings for one in model.one_grid(*inputs) if (settings := model.settings(one)) is not None}
    if not all(can_be_wide(model, one) for one in given):
        return None
    widest = max(num_bits, *(_bits(settings) for settings in given.values()))
    return overrides(model, {one: with_bits(settings, widest) for one, settings in given.items()})


def can_be_wide(model: ConfiguredGraph, one: LayerInput) -> bool:
    """Whether the configuration may give a quantized input more than 8 bits.

    False if the input follows the rules of weights (the second input of a matmul), if the layer has 4-bit weights
    (spec 4.2), or if the user has given a fixed grid or a quantizer class from outside.
    """
    layer, settings = model.layer(one.layer), model.settings(one)
    if layer is None or settings is None or is_second_of_matmul(model, one) or not _is_ours(settings):
        return False
    return layer.weight is None or num_bits_of(layer.weight, is_weight=True) != NARROW_WEIGHT_BITS


def unified(model: ConfiguredGraph, inputs: Iterable[LayerInput]) -> Document | None:
    """Returns the configuration that quantizes all inputs on one grid with ``inputs`` in the same way.

    The settings of a matmul input are preferred, then the widest settings. If a layer is enabled for this, all of its
    other inputs are quantized too. Returns None if that would use a fixed grid or a class from outside for another
    tensor.
    """
    changes: dict[LayerInput, QuantizerConfig] = {}
    todo: list[tuple[LayerInput, QuantizerConfig | None]] = [(one, None) for one in inputs]
    while todo:
        one, lent = todo.pop()
        if one in changes:
            continue
        tied = model.one_grid(one)
        settings = _model_of(model, tied) or lent
        if settings is None or (settings is lent and not _is_ours(lent)):
            return None
        changes |= dict.fromkeys(tied, settings)
        off = [other.layer for other in tied if model.layer(other.layer) is None]
        todo += [(other, settings) for name in off for other in inputs_of(model.graph[name])]
    return overrides(model, changes)


def without_offset(model: ConfiguredGraph, inputs: Iterable[LayerInput]) -> Document | None:
    """Returns the configuration that quantizes ``inputs``, and all on one grid with them, symmetrically.

    Returns None if one of them has a fixed grid or a class from outside.
    """
    changes = {}
    for one in model.one_grid(*inputs):
        settings = model.settings(one)
        if settings is not None and not _is_ours(settings):
            return None
        if settings is not None:
            changes[one] = as_symmetric(settings)
    return overrides(model, changes)


def overrides(model: ConfiguredGraph, changes: Mapping[LayerInput, QuantizerConfig]) -> Document:
    """Returns the configuration that gives inputs these settings and enables their layers."""
    entries: dict[str, dict[str, Any]] = {}
    changed = {one.layer for one in changes}
    for name in (one for one in model.graph.nodes if one in changed):
        inputs, layer = inputs_of(model.graph[name]), model.layer(name)
        settings = [changes[one] if one in changes else model.settings(one) for one in inputs]
        if layer is not None and tuple(settings) == layer.activations:
            continue
        sections = [_section(one) for one in settings if one is not None]
        params = sections[0] if all(one == sections[0] for one in sections) else sections
        entry = entries.setdefault(repr(params), {"layer_name": [], "activation_quant_params": params})
        entry["layer_name"].append(name)
    return {"override_layer_configs": list(entries.values())}


def with_bits(settings: QuantizerConfig, num_bits: int) -> QuantizerConfig:
    """Returns a copy of ``settings`` with another number of bits."""
    return dataclasses.replace(settings, args={**settings.args, "num_bits": num_bits})


def is_second_of_matmul(model: ConfiguredGraph, one: LayerInput) -> bool:
    """Whether the input is the second input of a matmul, which follows the rules of weights and has 8 bits."""
    return one.index > 0 and _is_matmul(model, one)


def _is_matmul(model: ConfiguredGraph, one: LayerInput) -> bool:
    op = model.graph[one.layer].op
    return op is not None and op.role is Role.MATMUL


def _is_ours(settings: QuantizerConfig) -> bool:
    """Whether an algorithm of this package finds the grid."""
    return not is_custom(settings.quantizer) and settings.quantizer != "FixedFakeQuantize"


def _bits(settings: QuantizerConfig) -> int:
    return num_bits_of(settings, is_weight=False) or 0


def _model_of(model: ConfiguredGraph, inputs: tuple[LayerInput, ...]) -> QuantizerConfig | None:
    """Returns the settings to use for all of ``inputs``; None if none of them is quantized."""
    given = {one: settings for one in inputs if (settings := model.settings(one)) is not None}
    if not given:
        return None

    def preference(one: LayerInput) -> tuple[bool, int]:
        return _is_matmul(model, one), _bits(given[one])

    best = given[max(given, key=preference)]
    is_narrow = any(is_second_of_matmul(model, one) for one in given) and _is_ours(best)
    return with_bits(best, SECOND_INPUT_BITS) if is_narrow else best


def _section(settings: QuantizerConfig) -> dict[str, Any]:
    """Returns the settings as a section of a yaml file, without the log name, which belongs to one layer."""
    args = {key: value for key, value in settings.args.items() if key != "object_layer"}
    return {"quantizer": settings.quantizer, "quantizer_args": args}
