"""Measures the modes of several networks, relative to passes of the float network; one table, one JSON file.

``python -m benchmarks.networks --nets vit_b_16 --clock cpu --threads 1 --rounds 4``. Alternatives are timed in turn.
With ``--oracle`` also the seconds of the NumPy oracle on one image and the growth of its process, and with ``--check``
those of check_model; both take one run.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from benchmarks.speed import HEADER, Measure, timed
from benchmarks.subject import Workload, quantize
from benchmarks.table import as_text
from benchmarks.timing import CLOCKS, Alternative, Clock, interleaved


@dataclasses.dataclass(frozen=True)
class Network:
    """One network of the benchmark.

    Attributes:
      make: Builds it.
      batch: Images in a batch.
      size: Height and width of an image.
      limit: Target of real_quant: 1.0 for convolutions, 1.2 for transformers.
    """

    make: Callable[[], nn.Module]
    batch: int = 8
    size: int = 224
    limit: float = 1.0


class FunctionalWeights(nn.Module):
    """Convolutions and a linear function whose weights are parameters of the network itself."""

    def __init__(self, width: int = 64, depth: int = 6) -> None:
        super().__init__()
        self.stem = nn.Parameter(torch.randn(width, 3, 3, 3) * 0.2)
        self.kernels = nn.ParameterList(nn.Parameter(torch.randn(width, width, 3, 3) * 0.05) for _ in range(depth))
        self.head = nn.Parameter(torch.randn(10, width) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.stem, stride=2, padding=1))
        for kernel in self.kernels:
            x = F.relu(x + F.conv2d(x, kernel, padding=1))
        return F.linear(x.mean((2, 3)), self.head)


def _torchvision(name: str) -> nn.Module:
    from benchmarks.zoo.libraries import torchvision

    model: nn.Module = getattr(torchvision.models, name)()
    return model


def _yolo() -> nn.Module:
    from benchmarks.zoo import heads

    return heads.yolo()


NETWORKS = {
    "resnet50": Network(lambda: Workload().model()),
    "mobilenet_v2": Network(functools.partial(_torchvision, "mobilenet_v2")),
    "efficientnet_b0": Network(functools.partial(_torchvision, "efficientnet_b0")),
    "vit_b_16": Network(functools.partial(_torchvision, "vit_b_16"), batch=4, limit=1.2),
    "swin_t": Network(functools.partial(_torchvision, "swin_t"), batch=4, limit=1.2),
    "yolo": Network(_yolo, batch=1, size=640),
    "functional": Network(FunctionalWeights),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    """Returns the network ``name`` in eval mode, its BatchNorms with the statistics of their inputs, and a batch."""
    torch.manual_seed(0)
    network = NETWORKS[name]
    model = network.make()
    x = torch.randn(network.batch, 3, network.size, network.size)
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
    if norms and name != "resnet50":
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            model.train()(x[:2] if len(x) > 1 else torch.cat((x, x)))
    return model.eval(), x


def modes(name: str, rounds: int, clock: Clock) -> Iterator[Measure]:
    """Yields the time of a pass in each mode relative to a float pass."""
    model, x = build(name)
    with tempfile.TemporaryDirectory() as folder:
        fresh = quantize(model, Path(folder) / "config.json", 1)
    amct.enable_quantization(fresh, calibration=True)
    fake = copy.deepcopy(fresh)
    _run(fake, x)
    real = copy.deepcopy(fake)
    amct.enable_quantization(fake, fake_quant=True)
    amct.enable_quantization(real, real_quant=True)
    alternatives = {
        "float": Alternative(lambda _: _run(model, x)),
        "calibration": Alternative(lambda one: _run(one, x), lambda: copy.deepcopy(fresh)),
        "fake_quant": Alternative(lambda _: _run(fake, x)),
        "real_quant": Alternative(lambda _: _run(real, x)),
    }
    times = interleaved(alternatives, rounds, clock, name)
    limits = {"calibration": 1.2, "fake_quant": 1.15, "real_quant": NETWORKS[name].limit}
    for mode, limit in limits.items():
        yield timed(f"{name}: {mode} / float", times[mode], times["float"], limit)


def oracle(name: str) -> dict[str, float]:
    """Returns seconds of the oracle on one image of the deployed model of ``name``, wall and CPU time."""
    from hotwheels.amct_pytorch.oracle.digest import verify

    model, x = build(name)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        quantized = quantize(model, Path(folder) / "config.json", 1)
        amct.enable_quantization(quantized, calibration=True)
        quantized(x[:1])
        amct.save_quant_model_fx(quantized, f"{folder}/net", x[:1], golden_inputs=x[:1])
        wall, cpu = time.perf_counter(), time.process_time()
        verify(f"{folder}/net")
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def check(name: str) -> dict[str, float]:
    """Returns seconds of check_model of ``name``, wall and CPU time."""
    model, x = build(name)
    wall, cpu = time.perf_counter(), time.process_time()
    amct.check_model(model, x[:1])
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


@torch.no_grad()
def _run(model: nn.Module, x: Tensor) -> None:
    model(x)


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    measures: list[Measure] = []
    seconds: dict[str, dict[str, float]] = {}
    for name in args.nets if args.rounds else ():
        measures += modes(name, args.rounds, CLOCKS[args.clock])
        _write(args, measures, seconds)
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}, {args.clock} time, {args.rounds} rounds")
    print(as_text(HEADER, [one.cells() for one in measures]))
    for wanted, measure in ((args.oracle, oracle), (args.check, check)):
        for name in args.nets if wanted else ():
            seconds[f"{name}: {measure.__name__}"] = found = measure(name)
            print(f"{name}: {measure.__name__} {found['wall']:.2f} s, CPU {found['cpu']:.2f} s", flush=True)
            _write(args, measures, seconds)


def _write(args: argparse.Namespace, measures: Sequence[Measure], seconds: dict[str, dict[str, float]]) -> None:
    """Writes what was measured so far, if a file is asked for: a run that is interrupted loses one network."""
    if not args.json:
        return
    rows = [dataclasses.asdict(one) | {"verdict": one.verdict} for one in measures]
    settings = {"clock": args.clock, "rounds": args.rounds, "threads": torch.get_num_threads()}
    document = {"torch": torch.__version__, **settings, "measures": rows, "seconds": seconds}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=tuple(NETWORKS), default=tuple(NETWORKS))
    parser.add_argument("--rounds", type=int, default=8, help="rounds that count; 0 measures no modes; default: 8")
    parser.add_argument(
        "--clock", choices=tuple(CLOCKS), default="wall", help="cpu: processor time of all threads, for a busy machine"
    )
    parser.add_argument("--threads", type=int, help="threads of torch; default: torch's own choice")
    parser.add_argument("--oracle", action="store_true", help="also the NumPy oracle on one image")
    parser.add_argument("--check", action="store_true", help="also check_model")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
