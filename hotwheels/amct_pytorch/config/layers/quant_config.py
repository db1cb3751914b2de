"""QuantConfig: the content of config.json, one entry per layer (spec 8.4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .refine_config import RefineConfig


@dataclasses.dataclass(frozen=True)
class QuantizerConfig:
    """The algorithm that quantizes one tensor, and its arguments.

    Attributes:
      quantizer: Name of a quantizer of this package, or a dotted path to any class (spec 6.6).
      args: Arguments of the quantizer and of its observer, as in the file; ``observer`` names the observer class.
    """

    quantizer: str
    args: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """How one layer is quantized.

    Attributes:
      quant_enable: False leaves the layer in float.
      activations: One entry per quantizable input, in call order.
      weight: None for a layer without weights.
    """

    quant_enable: bool = True
    activations: tuple[QuantizerConfig, ...] = ()
    weight: QuantizerConfig | None = None


@dataclasses.dataclass(frozen=True)
class QuantConfig:
    """The configuration of a model.

    Attributes:
      layers: Every quantizable layer, by layer name, in graph order.
      refine: What is refined when calibration is complete; None: nothing, unless `amct.refine` is called.
    """

    layers: Mapping[str, LayerConfig]
    refine: RefineConfig | None = None
