"""Measures how the FX path grows with the network: stages by depth, memory of a save, saves against a bare export.

Each number comes from a process of its own with one thread, in seconds of its CPU time and MiB of its memory.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.table import as_text

ROOT = Path(__file__).resolve().parents[1]
DEPTHS = (250, 500, 1000, 2000, 4000)
NETWORKS = ("resnet50", "vit_b_16")
WEIGHTS = ("linear", "tokens", "conv", "folded")
STAGES = ("config", "model", "calibrate", "save", "verify", "restore")
_CHANNELS, _SIZE = 4, 8  # small: what grows is the number of layers
_COLOURS = ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#a6761d")  # of the stages
_GAIN = 0.01  # of the residual branches: thousands of sums stay finite


class Block(nn.Module):
    """Convolution, BatchNorm, ReLU and addition: two quantized layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(_CHANNELS)
        self.act = nn.ReLU()
        nn.init.constant_(self.norm.weight, _GAIN)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.norm(self.conv(x)))
        return x + y


def chain(layers: int) -> nn.Module:
    """Returns a network of ``layers`` quantized layers."""
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(layers // 2))).eval()


def depth(layers: int) -> dict[str, float]:
    """Returns CPU seconds of each stage of a network of ``layers`` layers, and the peak of the process in MiB."""
    import hotwheels.amct_pytorch as amct
    from hotwheels.amct_pytorch.oracle.digest import verify

    x = torch.randn(1, _CHANNELS, _SIZE, _SIZE)
    depth_of(amct, verify, chain(2), x)  # so that imports are in no stage
    return depth_of(amct, verify, chain(layers), x)


def depth_of(amct: Any, verify: Callable[[str], Any], model: nn.Module, x: Tensor) -> dict[str, float]:
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        config, prefix = f"{folder}/config.json", f"{folder}/net"
        times["config"], _ = _timed(lambda: amct.create_quant_config_fx(config, model))
        times["model"], quantized = _timed(lambda: amct.create_quant_model_fx(config, model))
        times["calibrate"], _ = _timed(lambda: _calibrate(amct, quantized, x))
        times["save"], _ = _timed(lambda: amct.save_quant_model_fx(quantized, prefix, x))
        amct.save_quant_model_fx(quantized, prefix, x, golden_inputs=x)
        times["verify"], verdicts = _timed(lambda: verify(prefix))
        assert all(one.is_ok for one in verdicts)
        torch.save(quantized.state_dict(), f"{folder}/state.pt")
        times["restore"], _ = _timed(lambda: amct.restore_quant_model_fx(config, model, f"{folder}/state.pt"))
    return times | {"MiB": _memory("VmHWM")}


def network(name: str) -> dict[str, float]:
    """Returns CPU seconds of config + model + save, and of one bare export by torch's TorchScript exporter."""
    import benchmarks.zoo.libraries  # noqa: F401 - lets torchvision be imported
    import torchvision  # isort: skip

    import hotwheels.amct_pytorch as amct

    torch.manual_seed(0)
    model, x = getattr(torchvision.models, name)().eval(), torch.randn(1, 3, 224, 224)
    _bare(chain(2), torch.randn(1, _CHANNELS, _SIZE, _SIZE))  # so that imports are in neither
    depth(2)
    bare = [_timed(lambda: _bare(model, x))[0] for _ in range(2)]
    rounds = [_flow(amct, model, x) for _ in range(2)]
    return {"bare": min(bare), "flow": min(rounds), "ratio": min(rounds) / min(bare)}


def _flow(amct: Any, model: nn.Module, x: Tensor) -> float:
    with tempfile.TemporaryDirectory() as folder:
        config = f"{folder}/config.json"
        first, _ = _timed(lambda: amct.create_quant_config_fx(config, model))
        second, quantized = _timed(lambda: amct.create_quant_model_fx(config, model))
        _calibrate(amct, quantized, x)
        third, _ = _timed(lambda: amct.save_quant_model_fx(quantized, f"{folder}/net", x))
    return first + second + third


def _bare(model: nn.Module, x: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of 14 is the attention of a ViT
        torch.onnx.export(model, (x,), io.BytesIO(), dynamo=False, opset_version=14)


def weights(kind: str, width: int = 6000, count: int = 6) -> dict[str, float]:
    """Returns the size of a model of large weights, and how far its save makes the memory of the process grow.

    ``linear``: Gemm, weights as they lie in memory; ``tokens``: MatMul, transposed; ``conv``: convolutions; ``folded``:
    convolutions with BatchNorm.
    """
    import hotwheels.amct_pytorch as amct

    depth(2)
    make: Callable[[], list[nn.Module]] = {
        "linear": lambda: [nn.Linear(width, width)],
        "tokens": lambda: [nn.Linear(width, width)],
        "conv": lambda: [nn.Conv2d(width, width, 1)],
        "folded": lambda: [nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width)],
    }[kind]
    model = nn.Sequential(*(one for _ in range(count) for one in make())).eval()
    size = sum(one.numel() * 4 for one in model.parameters()) / 2**20
    x = torch.randn({"linear": (1, width), "tokens": (1, 2, width)}.get(kind, (1, width, 2, 2)))
    with tempfile.TemporaryDirectory() as folder:
        amct.create_quant_config_fx(f"{folder}/config.json", model)
        quantized = amct.create_quant_model_fx(f"{folder}/config.json", model)
        _calibrate(amct, quantized, x)
        del model
        gc.collect()
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from now
        seconds, _ = _timed(lambda: amct.save_quant_model_fx(quantized, f"{folder}/net", x))
    growth = _memory("VmHWM") - before
    return {"MiB": size, "growth": growth, "ratio": 1 + growth / size, "seconds": seconds}


def _calibrate(amct: Any, quantized: nn.Module, x: Tensor) -> None:
    amct.enable_quantization(quantized, calibration=True)
    with torch.no_grad():
        quantized(x)


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def _memory(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


# --- one process for each number ---

_MEASURES: dict[str, Callable[[Any], dict[str, float]]] = {"depth": depth, "network": network, "weights": weights}


def in_process(measure: str, subject: str | int) -> dict[str, float]:
    """Returns what ``measure`` finds of ``subject`` in a new process."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--one", measure, str(subject)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "AMCT_LOG_LEVEL": "ERROR"}
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env=settings).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    if args.one:
        measure, subject = args.one
        print(json.dumps(_MEASURES[measure](int(subject) if subject.isdigit() else subject)))
        return
    found: dict[str, dict[str, dict[str, float]]] = {"depth": {}, "network": {}, "weights": {}}
    subjects = {"depth": args.depths, "network": NETWORKS, "weights": WEIGHTS}
    for measure in args.only:
        for subject in subjects[measure]:
            found[measure][str(subject)] = one = in_process(measure, subject)
            print(measure, subject, {name: round(value, 2) for name, value in one.items()}, flush=True)
            if args.json:
                args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for measure, rows in found.items():
        if rows:
            names = list(next(iter(rows.values())))
            cells = [[one, *(f"{row[name]:.2f}" for name in names)] for one, row in rows.items()]
            print(f"\n{as_text([measure, *names], cells)}")
    if args.plot and found["depth"]:
        plot({int(layers): row for layers, row in found["depth"].items()}, args.plot)


def plot(rows: dict[int, dict[str, float]], path: Path) -> None:
    """Draws the seconds of each stage over the number of layers as SVG, both on logarithmic axes."""
    largest = max(row[stage] for row in rows.values() for stage in STAGES)
    decades = range(-1, math.ceil(math.log10(largest)) + 1)
    left, right, top, bottom = 60.0, 460.0, 20.0, 320.0
    steps = sorted(rows)

    def x_of(layers: float) -> float:
        return left + (right - left) * math.log(layers / steps[0]) / math.log(steps[-1] / steps[0])

    def y_of(seconds: float) -> float:
        share = (math.log10(max(seconds, 10.0 ** decades[0])) - decades[0]) / (decades[-1] - decades[0])
        return bottom - (bottom - top) * share

    parts = [f'<text x="{(left + right) / 2}" y="360" text-anchor="middle">quantized layers</text>']
    parts.append('<text x="15" y="170" text-anchor="middle" transform="rotate(-90 15 170)">CPU seconds</text>')
    for decade in decades:
        y = y_of(10.0**decade)
        parts.append(f'<path d="M{left} {y:.1f}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**decade:g}</text>')
    for layers in steps:
        parts.append(f'<path d="M{x_of(layers):.1f} {top}V{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x_of(layers):.1f}" y="{bottom + 16}" text-anchor="middle">{layers}</text>')
    for place, (stage, colour) in enumerate(zip(STAGES, _COLOURS, strict=True)):
        points = " ".join(f"{x_of(layers):.1f},{y_of(rows[layers][stage]):.1f}" for layers in steps)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{right + 12}" y="{top + 20 + 18 * place}" fill="{colour}">{stage}</text>')
    style = 'font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="560" height="375" {style}><rect width="100%" height="100%" '
    path.write_text("\n".join([f'{head}fill="white"/>', *parts, "</svg>\n"]), encoding="utf-8")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(_MEASURES), default=list(_MEASURES))
    parser.add_argument("--depths", nargs="+", type=int, default=list(DEPTHS))
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--plot", type=Path, help="SVG file for the seconds over the number of layers")
    parser.add_argument("--one", nargs=2, metavar=("MEASURE", "SUBJECT"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
