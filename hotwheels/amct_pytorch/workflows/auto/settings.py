"""Settings: the pairs of widths that a layer may get, as entries of a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ...config.arguments.quantizer_check import num_bits_of
from ...config.layers.layer_rules import apply_rules
from ...config.layers.quant_config import LayerConfig, QuantConfig, QuantizerConfig
from ...errors import ConfigError
from ...graph import OpGraph, OpNode
from ...ops.desc import Role

WEIGHTS = {
    "8": QuantizerConfig("ArqWeightFakeQuantize", {"observer": "ArqObserver", "num_bits": 8}),
    "4": QuantizerConfig("ArqWeightFakeQuantize", {"observer": "ArqObserver", "num_bits": 4}),
    "4_codebook": QuantizerConfig("SnqWeightFakeQuantize", {"observer": "SnqObserver", "num_bits": 4}),
}
FLOAT = "float"
_DATA_BITS = (8, *range(9, 17))
# Both ends of the range lie beyond the largest calibrated magnitude: data that calibration has not seen exceeds it.
_ROOM = {"with_offset": False, "search_start": 1.2, "search_end": 1.3}


@dataclasses.dataclass(frozen=True)
class Setting:
    """The widths of a layer.

    Inputs of more than 8 bits get a symmetric range with room at both ends. That costs one to two bits, and those bits
    are worth less than values that are cut off: with 12 bits, most of the data's noise came from such values.

    Attributes:
      data_bits: Of its inputs.
      weight: Key of `WEIGHTS`.
    """

    data_bits: int
    weight: str

    @property
    def name(self) -> str:
        """Short name, as in reports."""
        return f"W{self.weight.replace('_codebook', 'c')}A{self.data_bits}"

    def of(self, node: OpNode, default: LayerConfig, batches: int) -> LayerConfig | None:
        """Returns the settings of a layer; None if it cannot have them.

        Args:
          node: The layer.
          default: Its default settings, on.
          batches: How many batches calibration has.
        """
        activations = tuple(
            QuantizerConfig(one.quantizer, {**one.args, **self._data(_is_second(node, index)), "batch_num": batches})
            for index, one in enumerate(default.activations)
        )
        weight = default.weight and (default.weight if self.weight == "8" else WEIGHTS[self.weight])
        try:
            return apply_rules(node, LayerConfig(True, activations, weight), f"Layer '{node.name}', {self.name}")
        except ConfigError:
            return None

    def _data(self, is_second: bool) -> dict[str, Any]:
        """Returns the arguments of an input; the second input of a matmul is treated like a weight."""
        if is_second or self.data_bits == 8:
            return {"num_bits": 8}
        return {"num_bits": self.data_bits, **_ROOM}


def settings_of(data_bits: Sequence[int], weights: Sequence[str]) -> tuple[Setting, ...]:
    """Returns the pairs of widths that the hardware computes: 4-bit weights go with data of 8 bits only (spec 4.2).

    Raises:
      ConfigError: A width is none of 8 to 16, or a weight none of `WEIGHTS`; data of 8 bits is missing.
    """
    for bits in data_bits:
        if bits not in _DATA_BITS:
            raise ConfigError(f"auto_quantize: data_bits has {bits!r}; allowed: 8 to 16.")
    for weight in weights:
        if weight not in WEIGHTS:
            raise ConfigError(f"auto_quantize: weights has {weight!r}; allowed: {', '.join(WEIGHTS)}.")
    if 8 not in data_bits or "8" not in weights:
        raise ConfigError("auto_quantize: data_bits must have 8, and weights '8': what every layer can be.")
    wider = [Setting(bits, "8") for bits in sorted(set(data_bits) - {8})]
    return (Setting(8, "8"), *(Setting(8, one) for one in dict.fromkeys(weights) if one != "8"), *wider)


def config_with(graph: OpGraph, defaults: QuantConfig, setting: Setting, batches: int) -> QuantConfig:
    """Returns the configuration in which every layer that is on by default has ``setting``, or W8A8 where it cannot."""
    base = Setting(8, "8")
    layers = {}
    for name, layer in defaults.layers.items():
        node = graph.layers[name]
        found = setting.of(node, layer, batches) or base.of(node, layer, batches) if layer.quant_enable else None
        layers[name] = layer if found is None else found
    return QuantConfig(layers)


def widths(layer: LayerConfig) -> tuple[int | None, ...]:
    """Returns the width of each input."""
    if not layer.quant_enable:
        return (None,) * len(layer.activations)
    return tuple(num_bits_of(one, is_weight=False) for one in layer.activations)


def weight_bits(layer: LayerConfig) -> int | None:
    """Returns the width of the weight; None without one."""
    return None if layer.weight is None else num_bits_of(layer.weight, is_weight=True)


def may_stay_in_float(node: OpNode) -> bool:
    """Whether the converter takes the layer in float: a CUBE operation must be quantized (rule 4 of spec 13.1)."""
    return not node.is_cube


def _is_second(node: OpNode, index: int) -> bool:
    """Whether an input of matmul is treated like a weight: that has 8 bits."""
    return node.op is not None and node.op.role is Role.MATMUL and (index > 0 or node.edges[index].is_constant)
