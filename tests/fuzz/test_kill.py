"""The kill campaign in short: a process dies at the first, a middle and the last renames of the calls that write."""

from __future__ import annotations

import sys

import pytest

from tests.fuzz.acts import ACTS
from tests.fuzz.kill import run_in_process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")
_SETS = {"save_quant_model_fx": 7, "quantize_model": 1, "save_model": 4, "save_quant_retrain_model": 4}


def test_saves_that_die_between_two_renames_are_refused() -> None:
    tallies = run_in_process(_SETS, "--only", "replace", "--repeat-once")
    assert {name: one.refused for name, one in tallies.items()} == _SETS
    assert all((one.old, one.new) == (1, 0) for one in tallies.values())


def test_calls_that_die_leave_whole_files() -> None:
    tallies = run_in_process(sorted(ACTS.keys() - _SETS.keys()), "--every", "13", "--repeat-once")
    assert all(one.kills for one in tallies.values())
