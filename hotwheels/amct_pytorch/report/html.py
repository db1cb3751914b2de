"""The report of the error analysis: one HTML document in three views, which needs no other file, and report.json."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import FileSet
from ..version import __version__
from .analysis import WITHOUT, Analysis, Change, Difference, LayerEffect, LayerSettings, Remark

VIEWS = ("layerwise", "graphwise", "statistic")
INDEX, FIGURES = "index.html", "report.json"
_TEMPLATE = Path(__file__).parent / "templates" / "document.html"


def write_reports(analysis: Analysis, folder: Path) -> list[Path]:
    """Writes the document under each of its names and the figures into ``folder``, which is made; returns the paths.

    ``index.html`` and ``<view>_analysis_report.html``, the names of HiSilicon's AMCT manual, are the same document; it
    opens in the view of its name.
    """
    with FileSet(is_durable=False) as files:
        names = {INDEX: VIEWS[0], **{f"{view}_analysis_report.html": view for view in VIEWS}}
        rows = _rows(analysis)
        for name, view in names.items():
            files.write_text(folder / name, _page(analysis, rows, view))
        files.write_text(folder / FIGURES, json_text(analysis.as_dict()))
    return list(files.paths)


def _page(analysis: Analysis, rows: Sequence[dict[str, Any]], view: str) -> str:
    data = {
        "model": analysis.model,
        "inputs": analysis.inputs,
        "version": __version__,
        "view": view,
        "outputs": max((len(one) for one in analysis.outputs.values()), default=0),
        "facts": _facts(analysis),
        "rows": rows,
        "worst": [_remark(one, analysis.metric) for one in analysis.remarks],
        "skipped": [[one.name, one.reason] for one in analysis.skipped],
    }
    # "<" would end the element that holds the data.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    title = html.escape(f"{view.capitalize()} analysis - {analysis.model}")
    return _TEMPLATE.read_text(encoding="utf-8").replace("__TITLE__", title, 1).replace("__DATA__", text, 1)


def _facts(analysis: Analysis) -> list[list[str]]:
    facts = [["Quantized layers", str(len(analysis.layerwise))], ["Nodes", str(len(analysis.graphwise))]]
    for state, differences in analysis.outputs.items():
        for index, one in differences.items():
            which = f", output {index}" if len(differences) > 1 else ""
            unit = " dB" if math.isfinite(one.sqnr_db) else ""
            facts.append([f"{state}, all layers{which}", f"{_words(one.sqnr_db)}{unit}, cosine {one.cosine:.6f}"])
    states = {state: value for state, value in analysis.metric.items() if not state.startswith(WITHOUT)}
    facts += [[f"evaluate, {state}", f"{value:.6g}"] for state, value in states.items()]
    if analysis.multiplications is not None:
        facts.append(["Multiplications on integers", f"{100 * analysis.multiplications.share:.2f} %"])
    return facts


def _rows(analysis: Analysis) -> list[dict[str, Any]]:
    """Every node in graph order; a key is left out where there is nothing to say."""
    alone = {one.name: one for one in analysis.layerwise}
    settings = {one.name: one for one in analysis.settings}
    changes = {one.name: one for one in analysis.statistic}
    nodes = {one.name: one for one in analysis.graphwise}
    rows = []
    for name in dict.fromkeys((*nodes, *alone, *changes)):
        node, change = nodes.get(name), changes.get(name)
        owner = name.partition("[")[0]
        row = {
            "n": name,
            "q": int(name in alone or (node is not None and node.is_quantized)),
            "op": alone[name].op if name in alone else change.op if change is not None else None,
            "why": analysis.reasons.get(owner) or None,
            "t": _tensors(settings.get(owner)),
            "a": _effect(alone[name]) if name in alone else None,
            "f": _difference(node.fake_quant) if node is not None else None,
            "r": _difference(node.real_quant) if node is not None else None,
            "lsb": node.max_lsb if node is not None else None,
            "m": analysis.shares.get(owner),
            "ho": _histogram(change.output) if change is not None else None,
            "hw": _histogram(change.weight) if change is not None and change.weight is not None else None,
        }
        rows.append({key: value for key, value in row.items() if value is not None})
    return rows


def _tensors(settings: LayerSettings | None) -> list[dict[str, Any]]:
    if settings is None:
        return []
    return [
        {
            "w": one.what,
            "b": one.num_bits,
            "s": one.scales[0],
            **({"s2": one.scales[1]} if one.scales[0] != one.scales[1] else {}),
            "o": one.offset,
            "z": one.quantizer,
            "ob": one.observer,
        }
        for one in settings.tensors
    ]


def _effect(effect: LayerEffect) -> list[Any]:
    return [*_difference(effect.worst), effect.worst_output]


def _difference(one: Difference) -> list[Any]:
    sqnr = _words(one.sqnr_db) if math.isinf(one.sqnr_db) else round(one.sqnr_db, 3)
    return [sqnr, round(one.cosine, 9), float(f"{one.max_error:.6g}")]


def _words(sqnr_db: float) -> str:
    return f"{sqnr_db:.1f}" if math.isfinite(sqnr_db) else ("exact" if sqnr_db > 0 else "noise")


def _histogram(change: Change) -> dict[str, Any]:
    """Counts in a byte each, on a logarithmic scale that ends at the largest: report.json has them as they are."""
    largest = max(*change.before.counts, *change.after.counts, 1)
    packed = [_packed(counts, largest) for counts in (change.before.counts, change.after.counts)]
    numbers = (change.after.minimum, change.after.maximum, change.after.mean, change.after.std)
    sqnr = change.difference.sqnr_db
    return {
        "e": [float(f"{change.low:.6g}"), float(f"{change.high:.6g}")],
        "c": [*packed, largest],
        "x": [float(f"{one:.5g}") for one in numbers],
        "d": round(sqnr, 2) if math.isfinite(sqnr) else _words(sqnr),
    }


def _packed(counts: Sequence[int], largest: int) -> str:
    scaled = np.rint(255 * np.log1p(counts) / math.log1p(largest)).astype(np.uint8)
    return base64.b64encode(scaled.tobytes()).decode("ascii")


def _remark(remark: Remark, metric: Mapping[str, float]) -> dict[str, Any]:
    sqnr = _words(remark.sqnr_db) if math.isinf(remark.sqnr_db) else round(remark.sqnr_db, 2)
    steps = [{"text": one.text, "yaml": one.yaml} for one in remark.steps]
    without = metric.get(f"{WITHOUT}{remark.name}")
    said = "" if without is None else f" evaluate without it: {without:.6g}."
    return {"n": remark.name, "a": sqnr, "say": remark.finding + said, "steps": steps}


def json_text(value: Any) -> str:
    """Returns ``value`` as JSON; infinite numbers, which JSON does not have, are texts: ``inf`` is an exact result."""
    return json.dumps(_finite(value), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value
