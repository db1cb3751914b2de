"""Two processes train and calibrate as one does (spec 2.2, 5.2): DistributedDataParallel with gloo, and torchrun."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.distributed import worker

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without torch.distributed")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two processes found; they start at once and write the same files."""
    folder = tmp_path_factory.mktemp("ddp")
    _run([[sys.executable, "-m", "tests.distributed.worker", str(folder), str(rank), "2"] for rank in range(2)])
    return [torch.load(folder / f"found_{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    """The same in this process, on the joined batches, with as many threads: sums of floats depend on that."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield worker.run(tmp_path_factory.mktemp("alone"), rank=0, world_size=1)
    torch.set_num_threads(threads)


def test_calibration_finds_on_every_rank_what_one_process_finds(found, alone):
    for rank in range(2):
        assert found[rank]["calibrated"].keys() == alone["calibrated"].keys()
        for name, grid in alone["calibrated"].items():
            assert torch.equal(found[rank]["calibrated"][name], grid), name


@pytest.mark.parametrize("case", worker.CASES)
def test_parameters_are_equal_on_all_ranks_and_to_one_process_on_the_joined_batch(found, alone, case):
    for name, value in alone[case].items():
        assert torch.equal(found[0][case][name], found[1][case][name]), name
        torch.testing.assert_close(
            found[0][case][name], value, rtol=0, atol=1e-6, msg=lambda text, name=name: name + text
        )
    moved = [name for name, value in alone[case].items() if not torch.equal(value, alone["start"][name])]
    assert any("clip_max" in name for name in moved) and any(name.endswith("conv1.weight") for name in moved)


def test_dynamic_path_trains_like_one_process_on_the_joined_batch(found, alone):
    for name, value in alone["dynamic path"].items():
        if not name.endswith("shift_bit"):  # only the master process evaluates
            assert torch.equal(found[0]["dynamic path"][name], found[1]["dynamic path"][name]), name
        torch.testing.assert_close(
            found[0]["dynamic path"][name], value, rtol=0, atol=1e-6, msg=lambda text, name=name: name + text
        )


def test_ranks_agree_where_batch_statistics_are_trained(found):
    first, second = (rank["batch statistics"] for rank in found)
    for name, value in first.items():
        if "running" not in name:  # DDP sends those of rank 0 with the next forward
            assert torch.equal(value, second[name]), name


def test_torchrun_calibrates_like_one_process(tmp_path, alone):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={_free_port()}"]
    _run([[*launcher, "-m", "tests.distributed.worker", str(tmp_path)]])
    for rank in range(2):
        calibrated = torch.load(tmp_path / f"found_{rank}.pt", weights_only=True)["calibrated"]
        for name, grid in alone["calibrated"].items():
            assert torch.equal(calibrated[name], grid), name


def _run(commands: list[list[str]]) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "AMCT_LOG_LEVEL": "ERROR"}
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
