"""Processes whose batches are not alike: the grids are right, or each says what is wrong, and none waits for long."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.distributed import uneven_worker as worker

ROOT = Path(__file__).parents[2]
ENDED = "process 1: CalibrationError: it has ended the calibration"
WRONG = {
    "fewer batches, IFMR": (ENDED, None),
    "fewer batches, LUQ": (ENDED, None),
    "an error, IFMR": ("failed in another process: process 1.*holds NaN", "Layer 'conv'.*holds NaN"),
    "process 0 alone": 2 * ("Process 0 has waited 3 s at batch 1 of layer 'conv' for the processes 1",),
}


@pytest.mark.skipif(not dist.is_available(), reason="torch without torch.distributed")
def test_uneven_batches_give_the_grids_of_all_data_or_an_error_in_each_process(tmp_path: Path) -> None:
    found = found_by_two_processes(tmp_path)
    for case, sizes in worker.RIGHT.items():
        batches = [
            torch.cat([worker.batch(number, rank, sizes[rank][number]) for rank in range(2)]) for number in range(2)
        ]
        expected = worker.grids(worker.calibrated(worker.quantized(tmp_path, worker.IFMR), batches))
        for one in found:
            assert one[f"{case}, IFMR"].keys() == expected.keys()
            for name, grid in expected.items():
                assert torch.equal(one[f"{case}, IFMR"][name], grid), (case, name)
    assert_equal(*(one["an empty batch, LUQ"] for one in found))  # each searches on its own share; the largest counts
    for case, (first, second) in WRONG.items():
        assert re.search(first, found[0][case]), case
        assert second is None or re.search(second, found[1][case]), case
    joined = [{name: value for name, value in one["join"].items() if "shift" not in name} for one in found]
    assert_equal(*joined)


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def found_by_two_processes(folder: Path) -> list[dict[str, Any]]:
    """What each of two processes found; an error of the transport, such as its time-out, would end the process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "AMCT_LOG_LEVEL": "ERROR"}
    command = [sys.executable, "-m", "tests.distributed.uneven_worker", str(folder)]
    processes = [subprocess.Popen([*command, str(rank)], cwd=ROOT, env=env) for rank in range(2)]
    try:
        assert [process.wait(timeout=400) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"found_{rank}.pt", weights_only=True) for rank in range(2)]
