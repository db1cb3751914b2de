"""Measures a W8A8 training step of ResNet-50 with learned activation ranges against its float step.

``python -m benchmarks.training``: 8x3x224x224, SGD with momentum. Float and quantized steps take turns in one process,
so that what else the machine does slows both; the peak of the memory is measured in a process for each.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.subject import Workload, quantize
from benchmarks.table import as_text, verdict
from benchmarks.timing import CLOCKS, Alternative, interleaved

ROOT = Path(__file__).resolve().parents[1]
MAX_TIME, MAX_MEMORY = 1.2, 1.3  # goals, as ratios to float
FLOAT, W8A8 = "float", "W8A8"
HEADER = ("training step", "ratio", "target", "verdict", "median", W8A8, FLOAT)


def main() -> None:
    args = _parse_arguments()
    torch.set_num_threads(args.threads)
    workload = Workload(width=args.width, batch_size=args.batch_size, image_size=args.image_size)
    if args.peak_of:
        print(peak_memory(args.peak_of, workload))
        return
    memory = memory_row()  # first: Linux lets a child begin with the peak of its parent
    print(as_text(HEADER, [time_row(workload, args.rounds, args.clock), memory]))


def time_row(workload: Workload, rounds: int, clock: str) -> tuple[str, ...]:
    """Times steps of both in turn; CPU time counts all threads and is the steadier figure on a busy machine."""
    alternatives = {}
    for kind in (FLOAT, W8A8):
        step = make_step(kind, workload)
        alternatives[kind] = Alternative(lambda _, step=step: step())
    times = interleaved(alternatives, rounds, CLOCKS[clock], "training steps")
    ours, base = times[W8A8], times[FLOAT]
    ratio, median = ours.ratio(base), ours.median_ratio(base)
    seconds = (f"{ours.least:.2f} s", f"{base.least:.2f} s")
    return (f"{clock} time", f"{ratio:.2f}", f"{MAX_TIME}", verdict(ratio, MAX_TIME), f"{median:.2f}", *seconds)


def memory_row() -> tuple[str, ...]:
    """Compares the peak resident memory of two processes, with interpreter, libraries and weights."""
    ours, base = _peak_elsewhere(W8A8), _peak_elsewhere(FLOAT)
    ratio = ours / base
    sizes = (f"{ours:.0f} MiB", f"{base:.0f} MiB")
    return ("peak memory", f"{ratio:.2f}", f"{MAX_MEMORY}", verdict(ratio, MAX_MEMORY), "", *sizes)


def make_step(kind: str, workload: Workload) -> Callable[[], None]:
    """Returns a function that makes one training step of the float or of the quantized network."""
    model, images = workload.model(), next(workload.batches(1))
    labels = torch.arange(workload.batch_size)
    if kind == W8A8:
        model = _calibrated(model, images)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def peak_memory(kind: str, workload: Workload) -> float:
    """Returns the peak resident memory of this process, in MiB, after three steps."""
    step = make_step(kind, workload)
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB


def _calibrated(model: nn.Module, images: torch.Tensor) -> nn.Module:
    import hotwheels.amct_pytorch as amct  # here: a float run that measures memory must not carry the SDK

    with tempfile.TemporaryDirectory() as folder:
        quantized = quantize(model, Path(folder) / "config.json", batch_num=1)
    amct.enable_quantization(quantized, calibration=True)
    with torch.no_grad():
        quantized(images)
    amct.enable_quantization(quantized, fake_quant=True)
    return quantized


def _peak_elsewhere(kind: str) -> float:
    command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:], "--peak_of", kind]
    return float(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64, help="channels of the stem, default 64: the published network")
    parser.add_argument("--image_size", type=int, default=224, help="pixels, default 224")
    parser.add_argument("--batch_size", type=int, default=8, help="images per step, default 8")
    parser.add_argument("--threads", type=int, default=1, help="default 1")
    parser.add_argument("--rounds", type=int, default=5, help="measured steps of each kind, default 5")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="cpu", help="default cpu")
    parser.add_argument("--peak_of", choices=(FLOAT, W8A8), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
