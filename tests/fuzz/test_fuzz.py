"""Fuzzing in short: what once failed, and a few new damages for every reader."""

from __future__ import annotations

import itertools

import pytest

from tests.fuzz.fuzz import Tally, cases, corpus, fuzz
from tests.fuzz.readers import readers

NAMES = (
    *("simple yaml", "config.json", "om.json", "calibration cfg", "retrain cfg", "calibration config"),
    *("retrain config", "capacity", "deploy model", "parameters", "binary parameters", "golden file"),
    *("fake_quant model", "float model", "record", "manifest", "marked record", "marked model", "array", "dump"),
    *("dump as text", "checkpoint", "modified model", "dynamic record"),
)


def test_every_reader_is_fuzzed() -> None:
    assert tuple(readers()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_read(name: str) -> None:
    tally, reader = Tally(), readers()[name]
    fuzz(reader, ((str(number), seed) for number, seed in enumerate(reader.seeds)), tally)
    # Samples of the vendor's manual are for other models, and name files that are not there.
    is_sample = name in ("simple yaml", "config.json") or "cfg" in name or name.endswith(" config")
    assert not tally.failures
    assert tally.read == len(reader.seeds) or is_sample


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_read_or_refused(name: str) -> None:
    tally, reader = Tally(), readers()[name]
    fuzz(reader, itertools.chain(corpus(reader), cases(reader, 1, iter(range(15)))), tally)
    assert not tally.failures
