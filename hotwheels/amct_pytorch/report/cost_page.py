"""An HTML page, which needs no other file, on the widths that auto_quantize chose: the curve of costs, and a table."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence

from ..core.metrics import ratio_db

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _MARGIN = 720, 340, 60, 44, 16
_TICKS = 5
_STYLE = """:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 70rem; padding: 0 1rem; }
svg { width: 100%; max-width: 720px; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: currentColor; } .axis { stroke: #8888; } .curve { stroke: #1971c2; fill: none; stroke-width: 2; }
.uniform { fill: #868e96; } .chosen { fill: #d9480f; }
table { border-collapse: collapse; } td.chosen { background: #d9480f33; font-weight: 600; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #8886; text-align: right; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }"""


@dataclasses.dataclass(frozen=True)
class CostPoint:
    """One configuration: its name, its cost in units of W8A8 everywhere, and its predicted SQNR in dB."""

    name: str
    cost: float
    db: float


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One layer: its name, the setting chosen, and noise over signal at the output of the network for each setting."""

    name: str
    setting: str
    noise: Mapping[str, float]


def cost_page(
    chosen: CostPoint, uniform: Sequence[CostPoint], curve: Sequence[CostPoint], rows: Sequence[LayerRow]
) -> str:
    """Returns the page: the best SQNR for each cost, the other configurations beside it, and a row per layer."""
    settings = list(dict.fromkeys(name for row in rows for name in row.noise))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("Layer", *settings))
    body = "\n".join(_row(row, settings) for row in rows)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Widths by auto_quantize</title><style>{_STYLE}</style></head>
<body><h1>Widths by auto_quantize</h1>
<p>{html.escape(chosen.name)}: cost {chosen.cost:.3f} of 8 bits everywhere, predicted {chosen.db:.1f} dB.</p>
{_figure(chosen, uniform, curve)}
<h2>SQNR at the output in dB if this layer alone is quantized</h2>
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table></body></html>
"""


def _row(row: LayerRow, settings: Sequence[str]) -> str:
    cells = [f"<td>{html.escape(row.name)}</td>"]
    for name in settings:
        kind = ' class="chosen"' if name == row.setting else ""
        cells.append(f"<td{kind}>{_decibels(row.noise.get(name))}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _decibels(noise: float | None) -> str:
    if noise is None:
        return ""
    return f"{ratio_db(1.0, noise):.1f}" if noise > 0 else "no noise"


def _figure(chosen: CostPoint, uniform: Sequence[CostPoint], curve: Sequence[CostPoint]) -> str:
    points = [chosen, *uniform, *curve]
    across = _Axis.of([one.cost for one in points], _LEFT, _WIDTH - _MARGIN)
    up = _Axis.of([one.db for one in points], _HEIGHT - _BOTTOM, _MARGIN)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Best SQNR for each cost">']
    for value in across.ticks:
        parts.append(_line(across.at(value), _MARGIN, across.at(value), _HEIGHT - _BOTTOM))
        parts.append(_text(across.at(value), _HEIGHT - _BOTTOM + 16, f"{value:.2f}", "middle"))
    for value in up.ticks:
        parts.append(_line(_LEFT, up.at(value), _WIDTH - _MARGIN, up.at(value)))
        parts.append(_text(_LEFT - 6, up.at(value) + 4, f"{value:.0f}", "end"))
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 8, "cost in units of 8 bits everywhere", "middle"))
    parts.append(_text(_LEFT, _MARGIN - 4, "predicted SQNR (dB)", "start"))
    line = " ".join(f"{across.at(one.cost):.1f},{up.at(one.db):.1f}" for one in sorted(curve, key=lambda one: one.cost))
    parts.append(f'<polyline class="curve" points="{line}"/>')
    for kind, group in (("uniform", uniform), ("chosen", [chosen])):
        for one in group:
            x, y = across.at(one.cost), up.at(one.db)
            parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
            parts.append(_text(x + 8, y - 6, one.name, "start" if x < _WIDTH * 0.8 else "end"))
    return "\n".join([*parts, "</svg>"])


@dataclasses.dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float) -> _Axis:
        low, high = min(values), max(values)
        room = 0.05 * (high - low) or 1.0
        return cls(low - room, high + room, start, end)

    @property
    def ticks(self) -> list[float]:
        step = (self.high - self.low) / _TICKS
        return [self.low + (index + 0.5) * step for index in range(_TICKS)]

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="axis" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
