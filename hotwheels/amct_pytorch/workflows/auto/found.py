"""What `auto_quantize` has found: the configuration chosen, others beside it, and the table of the layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...core.metrics import ratio_db
from ...report.cost_page import CostPoint, LayerRow, cost_page


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One configuration.

    Attributes:
      name: Of a configuration with one setting everywhere; empty on the curve.
      cost: In units of the cost of the network with W8A8 everywhere.
      predicted_db: SQNR at the output by the sum of the layers' noises.
      measured: What ``evaluate`` returned, or the SQNR at the output in dB; None if it was not measured.
    """

    name: str = ""
    cost: float
    predicted_db: float
    measured: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoQuantization:
    """What `auto_quantize` has found.

    Attributes:
      text: The simple configuration (yaml).
      chosen: Its cost, its predicted SQNR and what was measured.
      uniform: The same of every setting given to all layers that can have it.
      curve: The best predicted SQNR for a row of costs.
      layers: For each layer the setting chosen, and noise and cost of every setting.
      float_measured: What ``evaluate`` returned for the float model; None without it.
    """

    text: str
    chosen: Point
    uniform: tuple[Point, ...]
    curve: tuple[Point, ...]
    layers: Mapping[str, LayerChoice]
    float_measured: float | None = None

    def __str__(self) -> str:
        """A line per layer, after one on the whole."""
        lines = [described("chosen", self.chosen), *(described(one.name, one) for one in self.uniform)]
        return "\n".join([*lines, *(f"{name}: {one}" for name, one in self.layers.items())])

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return dataclasses.asdict(self)

    def as_page(self) -> str:
        """Returns an HTML page with the curve and the table of the layers."""
        rows = [LayerRow(name, one.setting, one.noise) for name, one in self.layers.items()]
        uniform = [_shown(one.name, one) for one in self.uniform]
        curve = [_shown(one.name, one) for one in self.curve]
        return cost_page(_shown("chosen", self.chosen), uniform, curve, rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """The setting of one layer.

    Attributes:
      setting: The one chosen.
      noise: Noise over signal power at the output of the network, by setting.
      cost: In units of the whole network with W8A8, by setting.
    """

    setting: str
    noise: Mapping[str, float]
    cost: Mapping[str, float]

    def __str__(self) -> str:
        """The setting and what it was chosen from."""
        others = ", ".join(f"{name} {ratio_db(1.0, value):.1f} dB" for name, value in self.noise.items())
        return f"{self.setting} ({others})"


def _shown(name: str, point: Point) -> CostPoint:
    return CostPoint(name, point.cost, point.predicted_db)


def described(name: str, point: Point) -> str:
    """Returns the configuration `name` in words."""
    measured = "" if point.measured is None else f", measured {point.measured:.4g}"
    return f"{name}: cost {point.cost:.3f} of W8A8, predicted {point.predicted_db:.1f} dB{measured}"
