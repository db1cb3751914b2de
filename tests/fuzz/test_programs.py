"""Random programs in short: a few that have every kind of outcome; ``make fuzz-programs`` runs more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.programs import PATHS, check


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(8))
def test_a_program_computes_what_the_model_computes_or_is_refused(seed: int, path: str, tmp_path: Path) -> None:
    assert check(seed, path, tmp_path) in ("ok", "UnsupportedModelError", "UntraceableError", "ExportError")
