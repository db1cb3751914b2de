"""Measures calibration and fake quantization of other libraries beside ours: each relative to its own float pass.

``make bench-peers`` (an environment of its own) or ``python -m benchmarks.peers``, which skips what is not installed.
All alternatives of a network are timed in turn. W8A8 with each library's defaults: the algorithms differ (61 candidates
of a range in ours, histograms in torch.ao, percentiles in Brevitas, extremes in the others), and so does what a call
contains: ``nncf.quantize`` traces the model too, ``mtq.quantize`` replaces modules. The quantized model of onnxruntime
runs integer kernels, those of the others fake quantization.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from benchmarks.networks import NETWORKS, build
from benchmarks.speed import HEADER, Measure, timed
from benchmarks.subject import quantize
from benchmarks.table import as_text
from benchmarks.timing import CLOCKS, Alternative, Clock, interleaved


@dataclasses.dataclass(frozen=True)
class Passes:
    """The passes of one library, over the same batch.

    Attributes:
      calibration: The pass that finds the ranges.
      quantized: A pass of the calibrated model; fake quantization, except for onnxruntime.
      base: The float pass in the library's runtime; None for torch's.
    """

    calibration: Alternative
    quantized: Alternative
    base: Alternative | None = None


def ours(model: nn.Module, x: Tensor, folder: Path) -> Passes:
    fresh = quantize(model, folder / "config.json", 1)
    amct.enable_quantization(fresh, calibration=True)
    fake = copy.deepcopy(fresh)
    _run(fake, x)
    amct.enable_quantization(fake, fake_quant=True)
    return Passes(_on_copies(fresh, x), Alternative(lambda _: _run(fake, x)))


def torch_ao(model: nn.Module, x: Tensor, folder: Path) -> Passes:
    from torch.ao.quantization import disable_observer, get_default_qat_qconfig_mapping, get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_fx, prepare_qat_fx

    fresh = prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping("x86"), (x,))
    fake = prepare_qat_fx(copy.deepcopy(model).train(), get_default_qat_qconfig_mapping("x86"), (x,)).eval()
    _run(fake, x)
    fake.apply(disable_observer)
    return Passes(_on_copies(fresh, x), Alternative(lambda _: _run(fake, x)))


def modelopt(model: nn.Module, x: Tensor, folder: Path) -> Passes:
    import modelopt.torch.quantization as mtq

    def calibrated(copied: nn.Module) -> nn.Module:
        return mtq.quantize(copied, mtq.INT8_DEFAULT_CFG, lambda one: _run(one, x))

    fake = calibrated(copy.deepcopy(model))
    return Passes(Alternative(calibrated, lambda: copy.deepcopy(model)), Alternative(lambda _: _run(fake, x)))


def nncf(model: nn.Module, x: Tensor, folder: Path) -> Passes:
    import nncf

    def calibrated(copied: nn.Module) -> nn.Module:
        return nncf.quantize(copied, nncf.Dataset([x]), subset_size=1)

    fake = calibrated(copy.deepcopy(model))
    return Passes(Alternative(calibrated, lambda: copy.deepcopy(model)), Alternative(lambda _: _run(fake, x)))


def brevitas(model: nn.Module, x: Tensor, folder: Path) -> Passes:
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.graph.quantize import preprocess_for_quantize
    from brevitas.graph.quantize import quantize as quantized

    fresh = quantized(preprocess_for_quantize(copy.deepcopy(model)))

    def calibrate(one: nn.Module) -> None:
        with calibration_mode(one):
            _run(one, x)

    fake = copy.deepcopy(fresh)
    calibrate(fake)
    return Passes(Alternative(calibrate, lambda: copy.deepcopy(fresh)), Alternative(lambda _: _run(fake, x)))


def onnxruntime(model: nn.Module, x: Tensor, folder: Path) -> Passes:
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = [{"x": x.numpy()}]

        def get_next(self) -> dict[str, Any] | None:
            return self._left.pop() if self._left else None

    path, quantized_path, augmented = (str(folder / f"{name}.onnx") for name in ("float", "quantized", "augmented"))
    torch.onnx.export(model, (x,), path, dynamo=False, input_names=["x"])
    quantize_static(path, quantized_path, Reader(), per_channel=True)
    calibrator = create_calibrator(path, None, augmented, CalibrationMethod.MinMax)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    sessions = [ort.InferenceSession(one, options, ["CPUExecutionProvider"]) for one in (path, quantized_path)]

    def calibrate(_: object) -> None:
        calibrator.collect_data(Reader())
        calibrator.compute_data()

    passes = [Alternative(lambda _, session=session: session.run(None, {"x": x.numpy()})) for session in sessions]
    return Passes(Alternative(calibrate), passes[1], passes[0])


LIBRARIES: Mapping[str, Callable[[nn.Module, Tensor, Path], Passes]] = {
    "ours": ours,
    "torch.ao": torch_ao,
    "modelopt": modelopt,
    "nncf": nncf,
    "brevitas": brevitas,
    "onnxruntime": onnxruntime,
}


def measures(name: str, libraries: Sequence[str], rounds: int, clock: Clock) -> Iterator[Measure]:
    """Yields the ratios of all ``libraries`` that work here, for the network ``name``."""
    model, x = build(name)
    alternatives = {"float": Alternative(lambda _: _run(model, x))}
    bases: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for library in libraries:
            place = Path(folder) / library
            place.mkdir()
            try:
                passes = LIBRARIES[library](model, x, place)
            except Exception as error:  # a peer that is missing, or does not run with this torch, takes no other row
                if library == "ours":
                    raise
                print(f"{library} is left out: {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
                continue
            bases[library] = "float" if passes.base is None else f"{library} float"
            alternatives[f"{library} calibration"] = passes.calibration
            alternatives[f"{library} quantized"] = passes.quantized
            if passes.base is not None:
                alternatives[bases[library]] = passes.base
        times = interleaved(alternatives, rounds, clock, name)
    for library, base in bases.items():
        for kind in ("calibration", "quantized"):
            yield timed(f"{name}: {library} {kind} / {base}", times[f"{library} {kind}"], times[base], None)


def _on_copies(fresh: nn.Module, x: Tensor) -> Alternative:
    return Alternative(lambda one: _run(one, x), lambda: copy.deepcopy(fresh))


@torch.no_grad()
def _run(model: nn.Module, x: Tensor) -> None:
    model(x)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=tuple(NETWORKS), default=("resnet50", "mobilenet_v2"))
    parser.add_argument("--libraries", nargs="+", choices=tuple(LIBRARIES), default=tuple(LIBRARIES))
    parser.add_argument("--rounds", type=int, default=8, help="rounds that count; default: 8")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: processor time of all threads")
    parser.add_argument("--threads", type=int, help="threads of torch; default: torch's own choice")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")  # of the peers: deprecations, missing compilers
    libraries = tuple(dict.fromkeys(("ours", *args.libraries)))
    found = [one for name in args.nets for one in measures(name, libraries, args.rounds, CLOCKS[args.clock])]
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}, {args.clock} time, {args.rounds} rounds")
    print(as_text(HEADER, [one.cells() for one in found]))
    if args.json:
        document = {
            "torch": torch.__version__,
            "clock": args.clock,
            "measures": [dataclasses.asdict(one) for one in found],
        }
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
