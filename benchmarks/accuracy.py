"""Compares the accuracy of post-training quantization with onnxruntime's, on networks trained on digits.

Every method quantizes the same float ONNX weights after seeing the same 32 images, and every result is an ONNX file run
by onnxruntime without graph optimizations on the held-out digits. SQNR is ``10 log10(sum(f^2) / sum((f - q)^2))`` over
all logits f of the float file and q of the quantized one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

import hotwheels.amct_pytorch as amct
from benchmarks import static_quantization
from benchmarks.static_quantization import METHODS, Images
from benchmarks.table import as_markdown, as_text, verdict
from sample.common import digits
from sample.common.training import trained
from sample.common.zoo import RECIPES

CALIBRATION_IMAGES = 32
LEAD = 1.0  # dB wanted above the best other method
OURS, REFINED = "amct", "amct refined"
CONFIGURATIONS = Path(__file__).resolve().parents[1] / "sample" / "quantize_conf"
EXPORT_SETTING = {
    "input_names": ["input"],
    "output_names": ["output"],
    "dynamic_axes": {"input": {0: "batch"}, "output": {0: "batch"}},
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """One trained network and the data for all methods.

    Attributes:
      name: Key of the zoo.
      model: The trained network.
      calibration: Images ``[32, 3, H, W]`` of the training part.
      images: The held-out digits.
      labels: The digits' classes.
      folder: The folder for files of this network.
      training: The digits that the network was trained with.
    """

    name: str
    model: nn.Module
    calibration: Images
    images: Images
    labels: NDArray[np.int64]
    folder: Path
    training: digits.Digits


@dataclasses.dataclass(frozen=True)
class Setting:
    """Which layers are quantized, in the configuration of both tools.

    Attributes:
      name: Shown in the table.
      definition: Simple configuration, None for the defaults.
      op_types: onnxruntime's ``op_types_to_quantize``; none for its defaults.
    """

    name: str
    definition: Path | None = None
    op_types: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The accuracy of one network quantized by one method.

    Attributes:
      sqnr: dB of the logits, against the float network.
      top1: Share of the digits that are recognised.
      agreement: Share of the digits for which the class equals the float network's.
    """

    sqnr: float
    top1: float
    agreement: float

    def cell(self) -> str:
        """The numbers as text."""
        return f"{self.sqnr:.2f} dB, {self.top1:.2%}"


@dataclasses.dataclass(frozen=True)
class Row:
    """All methods on one network with one setting."""

    network: str
    setting: str
    float_top1: float
    outcomes: Mapping[str, Outcome]

    @property
    def lead(self) -> float:
        """Our SQNR after refinement minus the best SQNR of the other methods, dB."""
        return self._lead_of(REFINED)

    @property
    def verdict(self) -> str:
        """Whether the lead reaches the goal."""
        return verdict(self.lead, LEAD, more_is_better=True)

    def _lead_of(self, ours: str) -> float:
        others = (found.sqnr for name, found in self.outcomes.items() if name not in (OURS, REFINED))
        return self.outcomes[ours].sqnr - max(others)

    def cells(self) -> tuple[str, ...]:
        """The row as text, under ``header``."""
        cells = (found.cell() for found in self.outcomes.values())
        agreement = f"{self.outcomes[REFINED].agreement:.2%}"
        lead = f"{self._lead_of(OURS):+.2f} dB, {self.lead:+.2f} dB"
        return self.network, self.setting, f"{self.float_top1:.2%}", *cells, agreement, lead, self.verdict


# Makes the quantized ONNX file of a network.
Method = Callable[[Subject, Setting], Path]


def post_training(subject: Subject, setting: Setting) -> Path:
    """Quantizes with this library; the float model that the other methods start from is written beside the result."""
    config, prefix = subject.folder / f"{setting.name}.json", subject.folder / setting.name
    amct.create_quant_config_fx(config, subject.model, setting.definition)
    model = amct.create_quant_model_fx(config, subject.model)
    amct.enable_quantization(model, calibration=True)
    calibration = torch.from_numpy(subject.calibration)
    with torch.no_grad():
        model(calibration)
    amct.save_quant_model_fx(model, prefix, calibration[:1], EXPORT_SETTING)
    amct.refine(model, [calibration], progress=False)
    amct.save_quant_model_fx(model, f"{prefix}_refined", calibration[:1], EXPORT_SETTING)
    return Path(f"{prefix}_fake_quant_model.onnx")


def refined(subject: Subject, setting: Setting) -> Path:
    """Returns the file of the refined model that ``post_training`` wrote."""
    return subject.folder / f"{setting.name}_refined_fake_quant_model.onnx"


def float_file(subject: Subject, setting: Setting) -> Path:
    """Returns the float ONNX file that ``post_training`` wrote."""
    return subject.folder / f"{setting.name}_float_model.onnx"


def onnxruntime_static(calibration_method: str) -> Method:
    """Returns the method with which onnxruntime quantizes the float file."""

    def quantize(subject: Subject, setting: Setting) -> Path:
        target = subject.folder / f"{setting.name}_{calibration_method}.onnx"
        return static_quantization.quantize(
            float_file(subject, setting), subject.calibration, calibration_method, setting.op_types, target
        )

    return quantize


# Weights and activations in 8 bits. For other widths: a Setting with its configuration, and the methods to compare.
METHODS_W8A8: Mapping[str, Method] = {
    OURS: post_training,  # first: it writes the float file and that of the refined model
    REFINED: refined,
    **{f"ORT {name}": onnxruntime_static(name) for name in METHODS},
}
SETTINGS_W8A8 = (
    Setting("full"),
    Setting(
        "cube_only",
        CONFIGURATIONS / "cube_only_8bit.yaml",
        ("Conv", "ConvTranspose", "Gemm", "MatMul", "MaxPool", "AveragePool", "GlobalAveragePool"),
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    rows = []
    pairs = [(name, setting) for name in args.networks for setting in SETTINGS_W8A8]
    with tempfile.TemporaryDirectory() as folder:
        for name, setting in tqdm(pairs, desc="accuracy", unit="row"):
            rows.append(compare(make_subject(name, args.keep or Path(folder)), setting, METHODS_W8A8))
    _report(rows, args)


def compare(subject: Subject, setting: Setting, methods: Mapping[str, Method]) -> Row:
    """Returns the accuracy of the network quantized by each of ``methods``."""
    files = {name: method(subject, setting) for name, method in methods.items()}
    expected = static_quantization.run(float_file(subject, setting), subject.images)
    outcomes = {
        name: outcome_of(static_quantization.run(file, subject.images), expected, subject.labels)
        for name, file in files.items()
    }
    return Row(subject.name, setting.name, top1_of(expected, subject.labels), outcomes)


def sqnr(expected: NDArray[np.floating], found: NDArray[np.floating]) -> float:
    """Returns the signal to quantization noise ratio in dB."""
    signal, noise = np.square(expected, dtype=np.float64), np.square(expected - found, dtype=np.float64)
    return float(10 * np.log10(signal.sum() / noise.sum()))


def outcome_of(logits: Images, expected: Images, labels: NDArray[np.int64]) -> Outcome:
    """Returns how close ``logits`` are to ``expected``, the float network's."""
    return Outcome(sqnr(expected, logits), top1_of(logits, labels), top1_of(logits, expected.argmax(axis=1)))


def top1_of(logits: Images, labels: NDArray[np.int64]) -> float:
    """Returns the share of right decisions."""
    return float((logits.argmax(axis=1) == labels).mean())


def make_subject(name: str, folder: Path, fold: int = 0) -> Subject:
    """Returns a network of the zoo, trained now or in an earlier run, with its data; ``fold`` is held out."""
    training, held_out = digits.load(fold)
    calibration = digits.to_input(training.images[:CALIBRATION_IMAGES]).numpy()
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    images, labels = held_out.normalized().numpy(), held_out.labels.numpy()
    return Subject(name, trained(name, fold), calibration, images, labels, own, training)


def _report(rows: Sequence[Row], args: argparse.Namespace) -> None:
    methods = list(rows[0].outcomes)
    header = (
        "network",
        "quantized",
        "float top-1",
        *methods,
        "decides as float",
        "lead, refined",
        f"goal {LEAD:+.0f} dB",
    )
    print(f"\nSQNR of the logits and top-1; {CALIBRATION_IMAGES} calibration images, onnxruntime as ORT")
    print((as_markdown if args.markdown else as_text)(header, [row.cells() for row in rows]))
    if args.json:
        document = [dataclasses.asdict(row) | {"lead": row.lead, "verdict": row.verdict} for row in rows]
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=tuple(RECIPES), default=tuple(RECIPES), help="default: all")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, for docs/accuracy.md")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--keep", type=Path, help="leave the ONNX files in this folder")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
