"""The kill campaign in short: a process dies at the first, a middle and the last renames of the calls that write."""

from __future__ import annotations

import sys

import pytest

from tests.fuzz.acts import ACTS
from tests.fuzz.kill import run_in_process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")
_SETS = {"save_quant_model_fx": 7, "quantize_model": 1, "save_model": 4, "save_quant_retrain_model": 4}


@pytest.mark.parametrize("name", _SETS)
def test_a_save_that_dies_between_two_renames_is_refused(name: str) -> None:
    tally = run_in_process(name, "--only", "replace", "--repeat-once")
    assert (tally.old, tally.new, tally.refused) == (1, 0, _SETS[name])


@pytest.mark.parametrize("name", sorted(ACTS.keys() - _SETS.keys()))
def test_a_call_that_dies_leaves_whole_files(name: str) -> None:
    assert run_in_process(name, "--every", "13", "--repeat-once").kills
