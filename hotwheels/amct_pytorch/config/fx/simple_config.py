"""SimpleConfig: the content of a simple yaml, the few rules that give every layer its settings (spec 8.5)."""

from __future__ import annotations

import dataclasses

from ..arguments.section import Section
from ..files.om_json import OmLayers
from ..layers.refine_config import RefineConfig


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimpleConfig:
    """The content of a simple yaml; every default means that the file does not set the field.

    Attributes:
      source: Name of the file, for messages.
      skip_layers: Names of layers that stay in float; above all other settings.
      mapping_file: Path of the om.json as written in the file; None without om.json.
      om_layers: Content of that om.json: for each layer the widths of its inputs.
      common: Rule for every layer.
      types: Rules for layers of a type, by increasing priority; above ``common`` and ``om_layers``.
      layers: Rules for layers by name, by increasing priority; above ``types``.
      refine: Asks for refinement after calibration.
    """

    source: str = dataclasses.field(default="the default configuration", compare=False)
    skip_layers: tuple[str, ...] = ()
    mapping_file: str | None = None
    om_layers: OmLayers = dataclasses.field(default_factory=dict)
    common: Rule = Rule()
    types: tuple[Rule, ...] = ()
    layers: tuple[Rule, ...] = ()
    refine: RefineConfig | None = None
