"""SimpleConfig: the content of a simple yaml, the few rules that give every layer its settings (spec 8.5)."""

from __future__ import annotations

import dataclasses

from ..files.om_json import OmLayers
from ..layers.refine_config import RefineConfig
from ..layers.rule import Rule


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
    common: Rule = dataclasses.field(default_factory=Rule)
    types: tuple[Rule, ...] = ()
    layers: tuple[Rule, ...] = ()
    refine: RefineConfig | None = None
