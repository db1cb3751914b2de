"""Measures a W8A8 training step of ResNet-50 with learned activation ranges against its float step.

``python -m benchmarks.training``: 8x3x224x224, SGD with momentum. Float and quantized steps take turns, so that other
load of the machine slows both. Each kind has its own process: in a common process the float step would reuse memory
that the larger quantized step had to allocate from the system.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from benchmarks.subject import Workload, quantize
from benchmarks.table import as_text, verdict
from benchmarks.timing import CLOCKS, Times

ROOT = Path(__file__).resolve().parents[1]
MAX_TIME, MAX_MEMORY = 1.2, 1.3  # goals, as ratios to float
FLOAT, W8A8 = "float", "W8A8"
WARM_UP = 2  # first steps of each kind, not counted as the memory of the process still grows
HEADER = ("training step", "ratio", "target", "verdict", "median", W8A8, FLOAT)


def main() -> None:
    args = _parse_arguments()
    torch.set_num_threads(args.threads)
    if args.steps_of:
        serve(args.steps_of, Workload(width=args.width, batch_size=args.batch_size, image_size=args.image_size), args)
        return
    print(as_text(HEADER, measure(args.rounds, args.clock)))


def measure(rounds: int, clock: str) -> list[tuple[str, ...]]:
    """Returns the rows of time and of peak memory; the memory includes interpreter, libraries and weights."""
    seconds: dict[str, list[float]] = {FLOAT: [], W8A8: []}
    with _worker(FLOAT) as base, _worker(W8A8) as ours:
        for _ in tqdm(range(WARM_UP + rounds), desc="training steps"):
            seconds[FLOAT].append(base("step"))
            seconds[W8A8].append(ours("step"))
        peaks = ours("peak"), base("peak")
    times = {kind: Times(tuple(values[WARM_UP:])) for kind, values in seconds.items()}
    return [time_row(times[W8A8], times[FLOAT], clock), memory_row(*peaks)]


def time_row(ours: Times, base: Times, clock: str) -> tuple[str, ...]:
    """Returns the row of times; CPU time includes all threads and varies less on a busy machine."""
    ratio, median = ours.ratio(base), ours.median_ratio(base)
    least = (f"{ours.least:.2f} s", f"{base.least:.2f} s")
    return (f"{clock} time", f"{ratio:.2f}", f"{MAX_TIME}", verdict(ratio, MAX_TIME), f"{median:.2f}", *least)


def memory_row(ours: float, base: float) -> tuple[str, ...]:
    """Returns the row of the largest resident memory of both processes, in MiB."""
    ratio = ours / base
    sizes = (f"{ours:.0f} MiB", f"{base:.0f} MiB")
    return ("peak memory", f"{ratio:.2f}", f"{MAX_MEMORY}", verdict(ratio, MAX_MEMORY), "", *sizes)


def serve(kind: str, workload: Workload, args: argparse.Namespace) -> None:
    """Answers each line of standard input with a number: the time of a step for "step", else the peak memory."""
    step, clock = make_step(kind, workload), CLOCKS[args.clock]
    for line in sys.stdin:
        gc.collect()
        started = clock()
        if line.strip() == "step":
            step()
            print(clock() - started, flush=True)
        else:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)  # Linux counts in KiB


@contextlib.contextmanager
def _worker(kind: str) -> Iterator[Callable[[str], float]]:
    command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:], "--steps_of", kind]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None

        def ask(question: str) -> float:
            print(question, file=process.stdin, flush=True)
            return float(process.stdout.readline())

        yield ask
        process.stdin.close()


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


def _calibrated(model: nn.Module, images: torch.Tensor) -> nn.Module:
    import hotwheels.amct_pytorch as amct  # imported here, so that the float run's memory does not include the SDK

    with tempfile.TemporaryDirectory() as folder:
        quantized = quantize(model, Path(folder) / "config.json", batch_num=1)
    amct.enable_quantization(quantized, calibration=True)
    with torch.no_grad():
        quantized(images)
    amct.enable_quantization(quantized, fake_quant=True)
    return quantized


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64, help="channels of the stem, default 64: the published network")
    parser.add_argument("--image_size", type=int, default=224, help="pixels, default 224")
    parser.add_argument("--batch_size", type=int, default=8, help="images per step, default 8")
    parser.add_argument("--threads", type=int, default=1, help="default 1")
    parser.add_argument("--rounds", type=int, default=5, help="measured steps of each kind, default 5")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="cpu", help="default cpu")
    parser.add_argument("--steps_of", choices=(FLOAT, W8A8), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
