"""Rule: settings for some layers, and the result of applying them to a layer (spec 8.5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from ...errors import ConfigError
from ...graph import OpNode
from ...log import get_logger
from ..arguments.section import Section
from ..files.om_json import UNKNOWN_WIDTH
from .layer_entry import without_weight_operand
from .quant_config import LayerConfig, QuantizerConfig

_log = get_logger(__name__)

_WIDTHS_OF_S16 = tuple(map(str, range(9, 16)))  # a yaml may have quotes around a number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """``common_config``, or one entry of an override list.

    Attributes:
      names: Layer types or layer names to which the rule applies; empty in ``common_config``.
      activations: One Section for all inputs, a tuple with one Section per input, or None if the rule has none.
      weight: None if the rule has no section for the weight.
      quant_enable: None if the rule does not set it: an override then enables its layers.
    """

    names: tuple[str, ...] = ()
    activations: Section | tuple[Section, ...] | None = None
    weight: Section | None = None
    quant_enable: bool | None = None


def names_of(rules: Iterable[Rule]) -> list[str]:
    """Returns the names that ``rules`` apply to."""
    return [name for rule in rules for name in rule.names]


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
