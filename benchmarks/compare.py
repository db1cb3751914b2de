"""Compares two JSON files of ``python -m benchmarks.speed --json`` and says what got slower beyond the spread."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.table import as_text

HEADER = ("measure", "before", "after", "change", "spread", "verdict")
_LEAST = 0.03  # share of the ratio; smaller changes are no result of a benchmark


@dataclasses.dataclass(frozen=True)
class Change:
    """One measure in both files: its ratios and the larger of the two spreads."""

    name: str
    before: float
    after: float
    spread: float

    @property
    def verdict(self) -> str:
        """``slower``, ``faster``, or empty if the change is within the spread."""
        if abs(self.after - self.before) <= max(self.spread, _LEAST * self.before):
            return ""
        return "slower" if self.after > self.before else "faster"

    def cells(self) -> tuple[str, ...]:
        """The row as text, under ``HEADER``."""
        change = f"{100 * (self.after / self.before - 1):+.0f} %"
        return (self.name, f"{self.before:.2f}", f"{self.after:.2f}", change, f"{self.spread:.2f}", self.verdict)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Returns the measures that both documents have, in the order of ``after``."""
    old = {row["name"]: row for row in before["measures"]}
    return [
        Change(row["name"], _typical(old[row["name"]]), _typical(row), max(_spread(old[row["name"]]), _spread(row)))
        for row in after["measures"]
        if row["name"] in old
    ]


def _typical(row: Mapping[str, Any]) -> float:
    """The median of the rounds; the ratio if there was one round."""
    return float(row["ratio"] if row["median"] is None else row["median"])


def _spread(row: Mapping[str, Any]) -> float:
    return float(row.get("spread") or 0.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns 1 if a measure got slower."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args(arguments)
    found = changes(*(json.loads(path.read_text(encoding="utf-8")) for path in (args.before, args.after)))
    print(as_text(HEADER, [one.cells() for one in found]))
    return int(any(one.verdict == "slower" for one in found))


if __name__ == "__main__":
    raise SystemExit(main())
