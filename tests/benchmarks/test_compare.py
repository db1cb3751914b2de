"""A change of a benchmark counts only beyond the spread of both runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import compare


def row(name: str, median: float | None, spread: float | None, ratio: float = 1.0) -> dict[str, object]:
    return {"name": name, "ratio": ratio, "median": median, "spread": spread}


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (row("a", 1.0, 0.1), row("a", 1.09, 0.02), ""),
        (row("a", 1.0, 0.1), row("a", 1.11, 0.02), "slower"),
        (row("a", 1.0, 0.02), row("a", 1.11, 0.2), ""),
        (row("a", 2.0, 0.0), row("a", 1.9, 0.0), "faster"),
        (row("a", 1.0, 0.0), row("a", 1.02, 0.0), ""),
        (row("a", None, None, 1.0), row("a", None, None, 1.5), "slower"),
    ],
)
def test_verdict(before: dict[str, object], after: dict[str, object], verdict: str) -> None:
    (change,) = compare.changes({"measures": [before, row("gone", 1.0, 0.1)]}, {"measures": [after, row("new", 1, 0)]})
    assert change.verdict == verdict


def test_status_tells_of_slower_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("before.json", "after.json")]
    for path, median in zip(files, (1.0, 1.5), strict=True):
        path.write_text(json.dumps({"measures": [row("a", median, 0.1)]}), encoding="utf-8")
    assert compare.main([str(files[0]), str(files[1])]) == 1
    assert "+50 %" in capsys.readouterr().out
    assert compare.main([str(files[1]), str(files[1])]) == 0
