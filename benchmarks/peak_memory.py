"""Runs the float network, or calibrates it, in a new process and prints the peak memory of the process.

It also prints how much of it was in use at once: blocks that somebody holds, without the free blocks between them,
which glibc keeps for later and of which it has more or fewer from run to run.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.subject import Workload, quantize

_INTERVAL = 0.001  # seconds between two looks at the blocks in use


@dataclasses.dataclass(frozen=True)
class Peak:
    """The most memory of a process, in MiB.

    Attributes:
      process: Its resident memory.
      in_use: Blocks of malloc that are in use, looked at every millisecond while the forwards run; None if the C
        library does not tell.
    """

    process: float
    in_use: float | None


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of malloc.h, glibc 2.33."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def measure(workload: Workload, batch_count: int, calibrate: bool) -> Peak:
    """Returns the peak memory of a new process that runs the network on ``batch_count`` batches.

    The memory includes interpreter, libraries, weights and data. The float process does not import the SDK.
    """
    size = (*workload.blocks, workload.width, workload.batch_size, workload.image_size, batch_count)
    command = [sys.executable, "-m", "benchmarks.peak_memory", *map(str, size)]
    if calibrate:
        command.append("--calibrate")
    root = Path(__file__).resolve().parents[1]
    output = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Peak(*json.loads(output.splitlines()[-1]))


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    workload = Workload(tuple(args.blocks), args.width, args.batch_size, args.image_size)
    model = workload.model()
    if args.calibrate:
        import hotwheels.amct_pytorch as amct

        with tempfile.TemporaryDirectory() as folder:
            model = quantize(model, Path(folder) / "config.json", args.batches)  # frees the float model
        amct.enable_quantization(model, calibration=True)
    with _watched() as in_use:
        for batch in workload.batches(args.batches):
            model(batch)
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
    print(json.dumps((process, max(in_use, default=None))))


@contextlib.contextmanager
def _watched() -> Iterator[list[float]]:
    """Yields a list that holds, behind the context, MiB of the blocks in use at many moments inside."""
    look = getattr(ctypes.CDLL(None), "mallinfo2", None)
    found: list[float] = []
    if look is None:
        yield found
        return
    look.restype = _MallocInfo
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(_INTERVAL):
            info = look()
            found.append((info.uordblks + info.hblkhd) / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        is_over.set()
        watcher.join()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("blocks", type=int, nargs=4)
    for name in ("width", "batch_size", "image_size", "batches"):
        parser.add_argument(name, type=int)
    parser.add_argument("--calibrate", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
