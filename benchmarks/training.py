"""Time and peak memory of a W8A8 training step with learned ranges, against the float step of the same network.

``python -m benchmarks.training`` runs ResNet-50 on 8x3x224x224 with SGD. Float and quantized steps take turns in one
process, so that what else runs on the machine slows both; peak memory is measured in a process for each of the two.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from sample.resnet50.src.resnet import resnet50

SEED = 0
KINDS = ("float", "W8A8")


def main() -> None:
    args = _parse_arguments()
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(peak_memory(args.peak_of, args))
        return
    steps = {kind: _step(kind, args) for kind in KINDS}
    times = {kind: measure(steps[kind], args.warmup) for kind in KINDS}
    times = {kind: [] for kind in KINDS}
    for _ in range(args.repeat):
        for kind in KINDS:
            times[kind].append(measure(steps[kind], 1)[0])
    del steps
    memory = {kind: _peak_memory_elsewhere(kind) for kind in KINDS}
    report(times, memory)


def measure(step: Callable[[], None], repeat: int) -> list[tuple[float, float]]:
    """Returns (wall seconds, CPU seconds of all threads) of each of ``repeat`` steps."""
    found = []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return found


def report(times: dict[str, list[tuple[float, float]]], memory: dict[str, float]) -> None:
    """Prints the medians and the ratios. CPU time is the steadier figure on a machine that does other work."""
    wall = {kind: statistics.median(one[0] for one in times[kind]) for kind in KINDS}
    cpu = {kind: statistics.median(one[1] for one in times[kind]) for kind in KINDS}
    print(f"{'':<8}{'wall':>9}{'CPU':>9}{'fastest CPU':>13}{'peak memory':>14}")
    for kind in KINDS:
        fastest = min(one[1] for one in times[kind])
        print(f"{kind:<8}{wall[kind]:>8.2f}s{cpu[kind]:>8.2f}s{fastest:>12.2f}s{memory[kind]:>10.0f} MiB")
    ratio = [statistics.median(b[i] / a[i] for a, b in zip(*times.values(), strict=True)) for i in range(2)]
    peak = memory[KINDS[1]] / memory[KINDS[0]]
    print(f"{'ratio':<8}{ratio[0]:>8.2f}x{ratio[1]:>8.2f}x{'':>13}{peak:>10.2f}x")


def peak_memory(kind: str, args: argparse.Namespace) -> float:
    """Returns the MiB which three steps of this process needed on top of what it had before the first."""
    step = _step(kind, args)
    before = _resident()
    _reset_peak()
    for _ in range(3):
        step()
    return _peak() - before


def _step(kind: str, args: argparse.Namespace) -> Callable[[], None]:
    """Returns a function that makes one training step."""
    torch.manual_seed(SEED)
    model = resnet50(width=args.width).train()
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size)
    labels = torch.randint(1000, (args.batch_size,))
    if kind != "float":
        model = _quantized(model, images)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def _quantized(model: nn.Module, images: Tensor) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        amct.create_quant_config_fx(config, model)
        quantized = amct.create_quant_model_fx(config, model)
    amct.enable_quantization(quantized, calibration=True)
    with torch.no_grad():
        quantized(images)
    amct.enable_quantization(quantized, fake_quant=True)
    return quantized


def _peak_memory_elsewhere(kind: str) -> float:
    command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:], "--peak_of", kind]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def _reset_peak() -> None:
    clear = Path("/proc/self/clear_refs")
    if clear.exists():  # Linux: 5 resets the peak of the resident memory
        clear.write_text("5", encoding="ascii")


def _peak() -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(float(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024


def _resident() -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    return next(float(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS")) / 1024


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64, help="channels of the stem; default: 64, the published network")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5, help="measured steps of each kind; default: 5")
    parser.add_argument("--peak_of", choices=KINDS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
