"""Refinement in two processes, each with half of the batches, finds what one process finds with all batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from hotwheels.amct_pytorch.core.refine import soft_rounding
from tests.distributed import refine_worker as worker

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not dist.is_available(), reason="torch without torch.distributed")
def test_two_processes_refine_like_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "AMCT_LOG_LEVEL": "ERROR"}
    command = [sys.executable, "-m", "tests.distributed.refine_worker", str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)], cwd=ROOT, env=env) for rank in range(2)]
    try:
        assert [process.wait(timeout=400) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    first, second = (torch.load(tmp_path / f"found_{rank}.pt", weights_only=True) for rank in range(2))
    monkeypatch.setattr(soft_rounding, "STEPS", 30)
    for case in worker.SIZES:
        alone = worker.found_for(case, tmp_path, 0, 1)
        for name, value in alone.items():
            assert torch.equal(first[case][name], second[case][name]), (case, name)
            # sums over batches are added in another order
            torch.testing.assert_close(first[case][name], value, rtol=1e-5, atol=1e-6, msg=f"{case}, {name}")
