"""The leak run in short."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.fuzz.leaks import CYCLES, Count, growth, leaks

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts in /proc")


@pytest.mark.parametrize("name", CYCLES)
def test_cycles_leave_nothing_behind(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    before, after = growth(CYCLES[name], 6)
    assert not leaks(before, after, 6)


def test_growth_is_seen() -> None:
    before = Count(memory=1000, files=3, threads=1, python_threads=1, modules=9, temporaries=0)
    after = Count(memory=90_000, files=4, threads=1, python_threads=1, modules=9, temporaries=0)
    assert leaks(before, after, 10) == ["files: 3 -> 4", "memory: 0 -> 87 MiB"]
    assert not leaks(before, before, 10)
