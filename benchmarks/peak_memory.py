"""Runs the float network, or calibrates it, in a new process and prints the peak memory of the process."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.subject import Workload, quantize


def measure(workload: Workload, batch_count: int, calibrate: bool) -> float:
    """Returns the peak resident memory, in MiB, of a new process that runs the network on ``batch_count`` batches.

    The memory includes interpreter, libraries, weights and data. The float process does not import the SDK.
    """
    size = (*workload.blocks, workload.width, workload.batch_size, workload.image_size, batch_count)
    command = [sys.executable, "-m", "benchmarks.peak_memory", *map(str, size)]
    if calibrate:
        command.append("--calibrate")
    root = Path(__file__).resolve().parents[1]
    output = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(output.split()[-1])


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
    for batch in workload.batches(args.batches):
        model(batch)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # Linux counts in KiB


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("blocks", type=int, nargs=4)
    for name in ("width", "batch_size", "image_size", "batches"):
        parser.add_argument(name, type=int)
    parser.add_argument("--calibrate", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
