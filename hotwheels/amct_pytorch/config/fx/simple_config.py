"""SimpleConfig: the few rules from which every layer's settings are made, what a simple yaml holds (spec 8.5)."""

from __future__ import annotations

import dataclasses

from ..arguments.section import Section
from ..files.om_json import OmLayers
from ..layers.refine_config import RefineConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """``common_config``, or one entry of an override list.

    Attributes:
      names: Layer types or layer names that it is for; empty in ``common_config``.
      activations: One Section for every input, a tuple with one for each input, or None if the rule says nothing.
      weight: None if the rule says nothing.
      quant_enable: None if the rule says nothing: an override then switches its layers on.
    """

    names: tuple[str, ...] = ()
    activations: Section | tuple[Section, ...] | None = None
    weight: Section | None = None
    quant_enable: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimpleConfig:
    """The content of a simple yaml; all defaults mean that the file says nothing.

    Attributes:
      source: Name of the file, for messages.
      skip_layers: Names of layers that stay in float whatever else is said.
      mapping_file: Path of the om.json as written in the file.
      om_layers: Content of that om.json: for each layer the widths of its inputs.
      common: For every layer.
      types: For layers of a type, by increasing priority; above ``common`` and ``om_layers``.
      layers: For layers by name, by increasing priority; above ``types``.
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
