"""The report: a table of all architectures, the reasons why nodes stay in float, and the failures.

The table has a letter for each reason and an explanation of the letters below it.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.table import as_markdown, as_text
from hotwheels.amct_pytorch.files import write_text_atomic

from .architectures import ARCHITECTURES
from .outcome import DYNAMIC, Outcome
from .static_path import LAYER_SQNR
from .subject import CALIBRATION_IMAGES, TEST_IMAGES

HEADER = (
    "network", "from", "path", "quantized", "on integers", "BN left", "float", "fake_quant", "real_quant",
    "oracle", "onnxruntime, layers",
    "at the end", "s", "commit", "verdict",
)  # fmt: skip

_LETTERS = string.ascii_letters

_INTRODUCTION = f"""# Zoo conformance

Written by `make zoo`; do not edit. {{passed}} of {{count}} networks of torchvision, timm, ultralytics, transformers and
onnx2torch pass: {{static}} of them ({{share}} % of {{count}}) unmodified on the FX path with `input_data`, {{dynamic}}
on the dynamic path; {{configured}} of them not in the default configuration. The list has {{all}} networks; those
without a row are named at the end.

A whole run takes 17 minutes on two cores, so rows are kept (`--keep`) until a network runs again: {{commits}}.

Each network is built by its library, untrained, in a small variant; constant initial parameters are replaced by
random ones, and BatchNorms get the statistics of photographs, so that ranges are as in a trained network. So a low SQNR
says nothing about accuracy: docs/accuracy.md has trained networks. Before anything is quantized, the traced model must
compute the outputs of the library's own model, and at the save the float file must, too. It is
calibrated with {CALIBRATION_IMAGES} crops of scikit-learn's two photographs and run on {TEST_IMAGES} others, in the
default configuration unless the section *Not the default configuration* lists the network.

- *quantized*, *float*: layers that compute on integers; nodes left in float, by reason: the table at the end explains
  the letters. On the dynamic path only modules are counted.
- *on integers*: share of the multiplications (torch's flop counter) in quantized layers; below 99.9 % in the default
  configuration a network fails. *BN left*: BatchNorms that are not folded; the reasons are below.
- *fake_quant*, *real_quant*: SQNR of the worst output against the float network, dB. With random weights it falls
  with depth more than in a trained network. On the dynamic path the oracle computes real_quant's column.
- *oracle*: quantized inputs of layers whose integers in real_quant all equal those of the NumPy interpreter of the
  deploy pair. On the dynamic path the zoo does not compare real_quant; tests/exact/test_dynamic.py does.
- *onnxruntime, layers*: layers of the fake_quant file, run without graph optimisations, that were compared with
  fake_quant in torch, each given the runtime's inputs; and the lowest SQNR among them (demanded: {LAYER_SQNR:.0f} dB).
- *at the end*: SQNR of the outputs of both; values near rounding ties were rounded differently, layer after layer.
- *s*: seconds on one core of a shared machine. *commit*: of this project, with which the network ran;
  with a plus, this one or one of the hours after it.

"""


def as_screen(outcomes: Sequence[Outcome]) -> str:
    """Returns the table as text."""
    return as_text(HEADER, _rows(outcomes))


def write(outcomes: Sequence[Outcome], path: Path) -> None:
    """Writes the report as Markdown, whole or not at all."""
    passed = [one for one in outcomes if one.has_passed]
    static = sum(one.path != DYNAMIC for one in passed)
    commits = Counter(one.commit or "an unknown commit" for one in outcomes)
    introduction = _INTRODUCTION.format(
        passed=len(passed),
        count=len(outcomes),
        static=static,
        configured=sum(bool(ARCHITECTURES[one.name].definition) for one in passed),
        share=f"{100 * static / max(len(outcomes), 1):.1f}",
        commits=", ".join(f"{count} on {commit}" for commit, count in commits.most_common()),
        dynamic=sum(one.path == DYNAMIC for one in passed),
        all=len(ARCHITECTURES),
    )
    parts = (
        introduction + as_markdown(HEADER, _rows(outcomes)),
        _section("Failures", {one.name: f"{one.stage}: {one.error}" for one in outcomes if not one.has_passed}),
        _section("Why not on the FX path", {one.name: "; ".join(one.problems) for one in outcomes if one.problems}),
        _section("Not the default configuration", {one.name: _definition(one) for one in outcomes if _definition(one)}),
        _section("BatchNorms left", {one.name: _reasons(one) for one in outcomes if one.batch_norms}),
        _left_out(outcomes),
        "## What stays in float\n\n" + as_markdown(("", "reason", "nodes", "networks"), _explained(outcomes)),
    )
    write_text_atomic(path, "\n\n".join(part for part in parts if part) + "\n")


def _left_out(outcomes: Sequence[Outcome]) -> str:
    names = ARCHITECTURES.keys() - {one.name for one in outcomes}
    return f"## Not run\n\n{', '.join(name for name in ARCHITECTURES if name in names)}." if names else ""


def _section(title: str, texts: Mapping[str, str]) -> str:
    lines = (f"- {name}: {text.replace('|', ' ')}" for name, text in texts.items())
    return "\n".join((f"## {title}", "", *lines)) if texts else ""


def _reasons(one: Outcome) -> str:
    return "; ".join(f"{count} x {reason}" for reason, count in one.batch_norms.items())


def _definition(one: Outcome) -> str:
    found = ARCHITECTURES[one.name]
    return f"`{found.definition}`. {found.reason}" if found.definition else ""


def _rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    letters = _letters(outcomes)
    return [_cells(one, letters) for one in outcomes]


def _letters(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Returns a letter for each reason, the most frequent first."""
    return dict(zip((reason for reason, _ in _counted(outcomes)), _LETTERS, strict=False))


def _counted(outcomes: Sequence[Outcome]) -> list[tuple[str, int]]:
    total = Counter[str]()
    for one in outcomes:
        total.update(_skipped(one))
    return total.most_common()


def _skipped(one: Outcome) -> Mapping[str, int]:
    return {} if one.path == DYNAMIC else one.skipped


def _explained(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    letters, networks = _letters(outcomes), Counter(reason for one in outcomes for reason in _skipped(one))
    counted = _counted(outcomes)
    return [(letters.get(reason, ""), reason, f"{count}", f"{networks[reason]}") for reason, count in counted]


def _cells(one: Outcome, letters: Mapping[str, str]) -> tuple[str, ...]:
    oracle = "-" if one.edges is None else f"{one.edges} inputs equal" if one.has_passed else "differs"
    return (
        one.name,
        ARCHITECTURES[one.name].source,
        one.path,
        _text(one.quantized),
        "-" if one.integer_share is None else f"{100 * one.integer_share:.2f} %",
        "-" if one.integer_share is None else f"{sum(one.batch_norms.values())}",
        " ".join(f"{count}{letters.get(reason, '')}" for reason, count in _skipped(one).items()) or "-",
        _text(one.fake_sqnr, ".1f"),
        _text(one.real_sqnr, ".1f"),
        oracle,
        "-" if one.layer_sqnr is None else f"{one.runtime_layers}: {one.layer_sqnr:.0f} dB",
        _text(one.runtime_sqnr, ".0f"),
        f"{sum(one.seconds.values()):.0f}",
        one.commit or "-",
        "ok" if one.has_passed else f"FAILS in {one.stage}",
    )


def _text(value: float | None, form: str = "") -> str:
    return "-" if value is None else format(value, form)
