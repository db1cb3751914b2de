"""The three reports of the error analysis as HTML files that need no other file and no network (spec 14)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from ..files import FileSet
from ..version import __version__
from .analysis import (
    Analysis,
    Change,
    Difference,
    Distribution,
    LayerChange,
    LayerEffect,
    NodeSimilarity,
)

_NODES_OF_A_LABELLED_AXIS = 60  # names of more layers overlap on a usual screen; the pointer still shows them


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
      text: The text shown.
      key: Sort key of a number, as JavaScript reads it; empty for words, which are sorted by ``text``.
    """

    text: str
    key: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose columns the reader can sort.

    Attributes:
      columns: Titles.
      rows: Cells of each row, in the initial order.
      first_sorted: Index of the column that gives the initial order, ascending.
      choice_column: Index of the column whose text names the diagram shown after a click on a row; None without one.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    first_sorted: int
    choice_column: int | None = None


def write_reports(analysis: Analysis, folder: Path) -> list[Path]:
    """Writes the reports into ``folder``, which is created if needed, and returns their paths."""
    with FileSet() as files:
        for name, view in _VIEWS.items():
            template = _environment().get_template(f"{name}.html.j2")
            page = template.render(analysis=analysis, version=__version__, plotly_js=get_plotlyjs(), **view(analysis))
            files.write_text(folder / f"{name}_analysis_report.html", page)
    return list(files.paths)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(decibel=_decibel, cosine=_cosine)
    # NaN and Infinity are no JSON: a browser would show an empty page.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment


def _layerwise(analysis: Analysis) -> dict[str, Any]:
    effects = analysis.layerwise
    order = sorted(range(len(effects)), key=lambda index: effects[index].worst.sqnr_db)
    has_outputs = any(len(effect.outputs) > 1 for effect in effects)
    columns = ["Order", "Layer", "Operation", *_DIFFERENCE_COLUMNS, *(["Worst output"] if has_outputs else [])]
    rows = [_effect_row(index, effects[index], has_outputs) for index in order]
    data = {
        "names": [effect.name for effect in effects],
        "series": [_series("quantized alone", [effect.worst for effect in effects])],
        "labelled": len(effects) <= _NODES_OF_A_LABELLED_AXIS,
    }
    return {"table": Table(columns, rows, first_sorted=3), "data": data}


def _graphwise(analysis: Analysis) -> dict[str, Any]:
    nodes = analysis.graphwise
    order = sorted(range(len(nodes)), key=lambda index: nodes[index].real_quant.cosine)
    titles = [f"{state} {title}" for state in ("real_quant", "fake_quant") for title in _COSINE_FIRST]
    rows = [_node_row(index, nodes[index]) for index in order]
    data = {
        "names": [node.name for node in nodes],
        "series": [
            _series("fake_quant", [node.fake_quant for node in nodes]),
            _series("real_quant", [node.real_quant for node in nodes]),
        ],
        "labelled": len(nodes) <= _NODES_OF_A_LABELLED_AXIS,
    }
    return {"table": Table(["Order", "Node", "Quantized", *titles], rows, first_sorted=3), "data": data}


def _statistic(analysis: Analysis) -> dict[str, Any]:
    tensors = [
        (index, layer, kind, change)
        for index, layer in enumerate(analysis.statistic)
        for kind, change in (("output", layer.output), ("weight", layer.weight))
        if change is not None
    ]
    tensors.sort(key=lambda tensor: tensor[3].difference.sqnr_db)
    titles = [f"{title} {when}" for title in _DISTRIBUTION_COLUMNS for when in ("float", "quantized")]
    columns = ["Order", "Layer", "Operation", "Tensor", "SQNR (dB)", *titles]
    rows = [_tensor_row(*tensor) for tensor in tensors]
    data = {
        layer.name: {"output": _histogram(layer.output), "weight": _histogram(layer.weight)}
        for layer in analysis.statistic
    }
    return {"table": Table(columns, rows, first_sorted=4, choice_column=1), "data": data}


_VIEWS: dict[str, Callable[[Analysis], dict[str, Any]]] = {
    "layerwise": _layerwise,
    "graphwise": _graphwise,
    "statistic": _statistic,
}

_DIFFERENCE_COLUMNS = ("SQNR (dB)", "Cosine", "Max error")
_COSINE_FIRST = ("cosine", "SQNR (dB)", "max error")
_DISTRIBUTION_COLUMNS = ("Min", "Max", "Mean", "Std")


def _effect_row(index: int, effect: LayerEffect, has_outputs: bool) -> list[Cell]:
    worst = effect.worst
    numbers = [_number(worst.sqnr_db, _decibel), _number(worst.cosine, _cosine), _number(worst.max_error, _short)]
    output = [_number(effect.worst_output, str)] if has_outputs else []
    return [_number(index + 1, str), Cell(effect.name), Cell(effect.op), *numbers, *output]


def _node_row(index: int, node: NodeSimilarity) -> list[Cell]:
    numbers = [cell for state in (node.real_quant, node.fake_quant) for cell in _cosine_first(state)]
    return [_number(index + 1, str), Cell(node.name), Cell("yes" if node.is_quantized else "no"), *numbers]


def _cosine_first(difference: Difference) -> list[Cell]:
    return [
        _number(difference.cosine, _cosine),
        _number(difference.sqnr_db, _decibel),
        _number(difference.max_error, _short),
    ]


def _tensor_row(index: int, layer: LayerChange, kind: str, change: Change) -> list[Cell]:
    pairs = zip(_numbers(change.before), _numbers(change.after), strict=True)
    numbers = [_number(value, _short) for pair in pairs for value in pair]
    names = [Cell(layer.name), Cell(layer.op), Cell(kind)]
    return [_number(index + 1, str), *names, _number(change.difference.sqnr_db, _decibel), *numbers]


def _numbers(distribution: Distribution) -> tuple[float, ...]:
    return distribution.minimum, distribution.maximum, distribution.mean, distribution.std


def _series(name: str, differences: Sequence[Difference]) -> dict[str, Any]:
    return {
        "name": name,
        "sqnr": [_finite(one.sqnr_db) for one in differences],
        "cosine": [_finite(one.cosine) for one in differences],
    }


def _histogram(change: Change | None) -> dict[str, Any] | None:
    if change is None:
        return None
    counts = {"before": change.before.counts, "after": change.after.counts}
    return {"low": change.low, "high": change.high, **counts}


def _finite(value: float) -> float | None:
    """Returns ``value``; None (no bar) for an infinite number, which an exact result has and JSON cannot hold."""
    return value if math.isfinite(value) else None


def _number(value: Any, text: Callable[[Any], str]) -> Cell:
    return Cell(text(value), str(value) if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity"))


def _decibel(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else ("exact" if value > 0 else "only noise")


def _cosine(value: float) -> str:
    return f"{value:.8f}"


def _short(value: float) -> str:
    return f"{value:.4g}"
