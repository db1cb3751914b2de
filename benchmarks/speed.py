"""Measures what quantization costs on a ResNet-50, relative to the float network and to a bare ONNX export.

All ratios come from one run. Alternatives are timed in turn, round by round. A ratio is the least time over the least
time; the table also has the median of the rounds' ratios: if the two differ much, the machine was busy.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.util
import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from benchmarks import peak_memory
from benchmarks.subject import Workload, quantize
from benchmarks.table import as_markdown, as_text, verdict
from benchmarks.timing import CLOCKS, Alternative, Clock, Times, interleaved

BATCHES = 2
MANY_BATCHES = 32
QUICK = Workload(blocks=(1, 1, 1, 1), width=8, batch_size=2, image_size=64)
SAME_MEMORY = 1.05  # largest ratio that counts as "does not depend on batch_num"

HEADER = ("measure", "ratio", "target", "verdict", "median", "spread", "measured", "base")


@dataclasses.dataclass(frozen=True)
class Measure:
    """One row: a quantity relative to a base quantity.

    Attributes:
      name: Names of both quantities.
      ratio: ``value / base``, from least times.
      target: The largest ratio wanted, None for information.
      value: Seconds or MiB.
      base: The base quantity, in the same unit.
      unit: ``s`` or ``MiB``.
      median: Median of the rounds' ratios; None if there is one round only.
      spread: Distance of the quartiles of the rounds' ratios; None likewise.
    """

    name: str
    ratio: float
    target: float | None
    value: float
    base: float
    unit: str
    median: float | None = None
    spread: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the target is met; empty without a target."""
        return verdict(self.ratio, self.target)

    def cells(self) -> tuple[str, ...]:
        """The row as text, under ``HEADER``."""
        return (
            self.name,
            f"{self.ratio:.2f}",
            "-" if self.target is None else f"{self.target:.2f}",
            self.verdict,
            "-" if self.median is None else f"{self.median:.2f}",
            "-" if self.spread is None else f"{self.spread:.2f}",
            f"{self.value:.4g} {self.unit}",
            f"{self.base:.4g} {self.unit}",
        )


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    workload = QUICK if args.quick else Workload()
    measures: list[Measure] = []
    # Memory first, before the other parts of this program allocate any.
    if "memory" in args.only:
        measures += memory(workload, 4 if args.quick else MANY_BATCHES)
    clock = CLOCKS[args.clock]
    with tempfile.TemporaryDirectory() as folder:
        if "passes" in args.only:
            measures += passes(workload, Path(folder), args.rounds, clock)
        if "save" in args.only:
            measures += saving(workload, Path(folder), args.rounds, clock)
        if "dynamic" in args.only:
            measures += dynamic(workload, Path(folder), args.rounds, clock)
    _report(measures, workload, args)


def memory(workload: Workload, many: int) -> Iterator[Measure]:
    """Yields peak memory of calibration processes, relative to a process that runs the float network."""
    plain = peak_memory.measure(workload, BATCHES, calibrate=False)
    few = peak_memory.measure(workload, BATCHES, calibrate=True)
    lots = peak_memory.measure(workload, many, calibrate=True)
    more = f"calibration of {many} / {BATCHES} batches"
    yield from _peaks("peak memory", "calibration / float run", few.process, plain.process, 1.2)
    yield from _peaks("peak memory", more, lots.process, few.process, SAME_MEMORY)
    yield from _peaks("memory in use", "calibration / float run", few.in_use, plain.in_use, 1.2)
    yield from _peaks("memory in use", more, lots.in_use, few.in_use, SAME_MEMORY)


def _peaks(what: str, of: str, value: float | None, base: float | None, target: float) -> Iterator[Measure]:
    if value is not None and base is not None:
        yield Measure(f"{what}: {of}", value / base, target, value, base, "MiB")


def passes(workload: Workload, folder: Path, rounds: int, clock: Clock) -> Iterator[Measure]:
    """Yields times of a pass in each mode over the same batches, relative to the float network's."""
    model = workload.model()
    batches = list(workload.batches(BATCHES))
    fresh = quantize(model, folder / "config.json", BATCHES)
    amct.enable_quantization(fresh, calibration=True)
    calibrated = copy.deepcopy(fresh)
    _run(calibrated, batches)
    fake, real = calibrated, copy.deepcopy(calibrated)
    amct.enable_quantization(fake, fake_quant=True)
    amct.enable_quantization(real, real_quant=True)
    times = interleaved(
        {
            "float": Alternative(lambda _: _run(model, batches)),
            # A model calibrates only once, so each round uses a new copy.
            "calibration": Alternative(lambda model: _run(model, batches), lambda: copy.deepcopy(fresh)),
            "fake_quant": Alternative(lambda _: _run(fake, batches)),
            "real_quant": Alternative(lambda _: _run(real, batches)),
        },
        rounds,
        clock,
        "passes",
    )
    yield timed("calibration pass / float pass", times["calibration"], times["float"], 1.2)
    yield timed("fake_quant pass / float pass", times["fake_quant"], times["float"], 1.15)
    yield timed("real_quant pass / float pass", times["real_quant"], times["float"], 1.0)


def saving(workload: Workload, folder: Path, rounds: int, clock: Clock) -> Iterator[Measure]:
    """Yields times of configuration, model and save together, relative to one bare export; calibration not timed."""
    model = workload.model()
    example = next(workload.batches(1))[:1]
    quantized = quantize(model, folder / "config.json", 1)
    amct.enable_quantization(quantized, calibration=True)
    _run(quantized, [example])

    def ours(_: object) -> None:
        amct.create_quant_config_fx(folder / "config.json", model)
        amct.create_quant_model_fx(folder / "config.json", model)
        amct.save_quant_model_fx(quantized, folder / "saved", example)

    alternatives = {"ours": Alternative(ours), "bare": Alternative(lambda _: _export(model, example, folder, False))}
    if has_dynamo_exporter():
        alternatives["dynamo"] = Alternative(lambda _: _export(model, example, folder, True))
    times = interleaved(alternatives, rounds, clock, "save")
    yield timed("config + model + save / torch.onnx.export(dynamo=False)", times["ours"], times["bare"], 2.0)
    if "dynamo" in times:
        yield timed("config + model + save / torch.onnx.export(dynamo=True)", times["ours"], times["dynamo"], 2.0)


def dynamic(workload: Workload, folder: Path, rounds: int, clock: Clock) -> Iterator[Measure]:
    """Yields times of the dynamic path from float model to saved files, relative to float passes and bare exports."""
    model = workload.model()
    batches = list(workload.batches(BATCHES))
    example = batches[0][:1]
    config, onnx_file, record = (folder / name for name in ("dynamic.json", "modified.onnx", "record.txt"))
    amct.create_quant_config(config, model, example, batch_num=BATCHES)

    def ours(_: object) -> None:
        quantized = amct.quantize_model(config, onnx_file, record, model, example)
        _run(quantized, batches)
        amct.save_model(onnx_file, record, folder / "dynamic", quantized)

    def bare(_: object) -> None:
        _run(model, batches)
        for _ in range(2):
            _export(model, example, folder, False)

    times = interleaved({"ours": Alternative(ours), "bare": Alternative(bare)}, rounds, clock, "dynamic")
    name = f"dynamic: quantize + calibration + save / {BATCHES} float passes + 2 torch.onnx.export(dynamo=False)"
    yield timed(name, times["ours"], times["bare"], 1.5)


def has_dynamo_exporter() -> bool:
    """Whether torch's newer exporter can run; it needs onnxscript, which this project does not require."""
    return importlib.util.find_spec("onnxscript") is not None


@torch.no_grad()
def _run(model: nn.Module, batches: Sequence[Tensor]) -> None:
    for batch in batches:
        model(batch)


def _export(model: nn.Module, example: Tensor, folder: Path, dynamo: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings
        torch.onnx.export(model, (example,), str(folder / "bare.onnx"), dynamo=dynamo, verbose=False)


def timed(name: str, ours: Times, base: Times, target: float | None) -> Measure:
    """Returns the row of ``ours`` relative to ``base``."""
    median, spread = (ours.median_ratio(base), ours.spread(base)) if len(ours.seconds) > 1 else (None, None)
    return Measure(name, ours.ratio(base), target, ours.least, base.least, "s", median, spread)


def _report(measures: Sequence[Measure], workload: Workload, args: argparse.Namespace) -> None:
    size = workload.image_size
    shape = f"ResNet {workload.blocks} of width {workload.width}, {workload.batch_size}x3x{size}x{size}"
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}, {args.clock} time"
    print(f"\n{shape}, {BATCHES} batches, {threads}")
    table = as_markdown if args.markdown else as_text
    print(table(HEADER, [measure.cells() for measure in measures]))
    if "save" in args.only and not has_dynamo_exporter():
        print("onnxscript is not installed: torch.onnx.export(dynamo=True), its default, was not measured.")
    if args.json:
        rows = [dataclasses.asdict(measure) | {"verdict": measure.verdict} for measure in measures]
        document = {"workload": dataclasses.asdict(workload), "torch": torch.__version__, "measures": rows}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parts = ("memory", "passes", "save", "dynamic")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a narrow network on small images: whether it runs at all")
    parser.add_argument("--rounds", type=int, help="rounds that count; default: 7, with --quick 1")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="parts to measure; default: all")
    parser.add_argument(
        "--clock", choices=tuple(CLOCKS), default="wall", help="cpu: processor time of all threads, for a busy machine"
    )
    parser.add_argument("--threads", type=int, help="threads of torch; default: torch's own choice")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args(arguments)
    args.rounds = args.rounds or (1 if args.quick else 7)
    return args


if __name__ == "__main__":
    main()
