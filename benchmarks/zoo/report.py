"""The report: a table of all architectures, the reasons of what stays in float, and the failures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.table import as_text
from hotwheels.amct_pytorch.files import write_text_atomic

from .outcome import Outcome

HEADER = ("network", "path", "quantized", "in float", "fake dB", "real dB", "ORT dB", "edges", "integers", "s", "verdict")


def as_screen(outcomes: Sequence[Outcome]) -> str:
    """Returns the table as text."""
    return as_text(HEADER, [_cells(one) for one in outcomes])


def write(outcomes: Sequence[Outcome], path: Path) -> None:
    write_text_atomic(path, as_screen(outcomes) + "\n")


def _cells(one: Outcome) -> tuple[str, ...]:
    return (
        one.name,
        one.path,
        _count(one.quantized),
        str(sum(one.skipped.values())),
        _decibel(one.fake_sqnr),
        _decibel(one.real_sqnr),
        _decibel(one.runtime_sqnr),
        _count(one.edges),
        _count(one.integers),
        f"{sum(one.seconds.values()):.1f}",
        "ok" if one.has_passed else f"FAILS in {one.stage}",
    )


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value}"


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
