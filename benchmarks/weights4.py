"""Compares 4-bit weights, as calibrated, refined and with new BatchNorm statistics, with 8-bit ones on digits.

Weights by SNQ, data in 8 bits by IFMR on the dynamic path. Calibrated on training digits, evaluated on held-out digits:
the calibrated model in torch, and its fake_quant file in onnxruntime without graph optimizations. SQNR as in
``benchmarks.accuracy``, of the file against the logits of the float network.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

import hotwheels.amct_pytorch as amct
from benchmarks import static_quantization
from benchmarks.accuracy import sqnr
from benchmarks.static_quantization import Images
from benchmarks.table import as_markdown, as_text, verdict
from sample.common import digits
from sample.common.training import trained
from sample.mobilenet_v2.src.mobilenet import MobileNetV2
from sample.nets.shufflenet import ShuffleNet

NETWORKS = ("resnet50", "mobilenet_v2", "shufflenet")
BATCH_SIZE = 64
BATCH_NUM = 2
BN_FORWARDS = 30  # the default of bn_update_iterations (spec 9.2)
MAX_LOSS = 1.0  # points of top-1 that 4-bit weights with BN update may lose
_COMMON = f"batch_num: {BATCH_NUM}\n"
_W4 = "common_config : { snq_quantize : { num_bits : 4 } ifmr_quantize : { num_bits : 8 } }\n"


@dataclasses.dataclass(frozen=True)
class Method:
    """A method to quantize.

    Attributes:
      name: Shown in the table.
      definition: Simple configuration.
      updates_norms: Whether the BatchNorm statistics are updated with the quantized weights.
      refines: Whether `amct.refine` follows the calibration, with the same pictures.
    """

    name: str
    definition: str
    updates_norms: bool = False
    refines: bool = False


METHODS = (
    Method("W8A8", _COMMON),
    Method("W4A8", f"{_COMMON}{_W4}"),
    Method("W4A8 refined", f"{_COMMON}{_W4}", refines=True),
    Method("W4A8 + BN update", f"{_COMMON}{_W4}update_bn: true\n", updates_norms=True),
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """One trained network and its data.

    Attributes:
      name: Key of the zoo.
      model: The trained network, its pooling a module.
      train: Images ``[N, 3, H, W]`` of the training part.
      images: The held-out digits.
      labels: The digits' classes.
    """

    name: str
    model: nn.Module
    train: Tensor
    images: Tensor
    labels: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Top-1 and SQNR in dB of one quantized file, top-1 of the model in torch, and the distance of their logits."""

    top1: float
    sqnr: float
    torch_top1: float
    torch_distance: float

    def cell(self) -> str:
        """The numbers as text."""
        return f"{self.sqnr:.2f} dB, {self.torch_top1:.2%} / {self.top1:.2%}"


@dataclasses.dataclass(frozen=True)
class Row:
    """All methods on one network."""

    network: str
    float_top1: float
    outcomes: dict[str, Outcome]

    @property
    def loss(self) -> float:
        """Points of top-1 that the last method loses to the float network; the larger loss of torch and onnxruntime."""
        last = self.outcomes[METHODS[-1].name]
        return 100 * (self.float_top1 - min(last.top1, last.torch_top1))

    @property
    def verdict(self) -> str:
        """Whether the loss is within the goal."""
        return verdict(self.loss, MAX_LOSS)

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        cells = (found.cell() for found in self.outcomes.values())
        return self.network, f"{self.float_top1:.2%}", *cells, f"{self.loss:+.2f}", self.verdict


class PooledMobileNet(nn.Module):
    """A MobileNetV2 whose pooling is a module, since the dynamic path only quantizes modules (spec 13.1)."""

    def __init__(self, net: MobileNetV2) -> None:
        super().__init__()
        self.features, self.pool, self.classifier = net.features, nn.AdaptiveAvgPool2d(1), net.classifier

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits of the network."""
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


class PooledShuffleNet(nn.Module):
    """A ShuffleNet whose pooling is a module."""

    def __init__(self, net: ShuffleNet) -> None:
        super().__init__()
        self.body = nn.Sequential(net.stem, net.stages, net.head)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), net.fc

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits of the network."""
        return self.fc(torch.flatten(self.pool(self.body(x)), 1))


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = [compare(_subject(name), Path(folder) / name) for name in tqdm(args.networks, desc="4-bit", unit="row")]
    header = ("network", "float top-1", *(method.name for method in METHODS), "points lost", f"goal {MAX_LOSS:g}")
    batches = f"{BATCH_NUM} calibration batches of {BATCH_SIZE}, {BN_FORWARDS} for BN update"
    print(f"\nSQNR of the logits in onnxruntime, top-1 in torch / in onnxruntime; {batches}")
    print((as_markdown if args.markdown else as_text)(header, [row.cells() for row in rows]))
    distance = max(outcome.torch_distance for row in rows for outcome in row.outcomes.values())
    print(f"Logits in torch and in onnxruntime: at most {distance:.4f} apart on average.")
    if args.json:
        document = [dataclasses.asdict(row) | {"loss": row.loss, "verdict": row.verdict} for row in rows]
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def compare(subject: Subject, folder: Path) -> Row:
    """Returns the accuracy of the network with each method; files are written under ``folder``."""
    expected = subject.model(subject.images).numpy()
    outcomes = {}
    for index, method in enumerate(METHODS):
        model, file = post_training(subject, method, folder / str(index))
        logits = static_quantization.run(file, subject.images.numpy())
        in_torch = model(subject.images).numpy()
        outcomes[method.name] = Outcome(
            top1=_top1(logits, subject.labels),
            sqnr=sqnr(expected, logits),
            torch_top1=_top1(in_torch, subject.labels),
            torch_distance=float(np.abs(in_torch - logits).mean()),
        )
    return Row(subject.name, _top1(expected, subject.labels), outcomes)


@torch.no_grad()
def post_training(subject: Subject, method: Method, folder: Path) -> tuple[nn.Module, Path]:
    """Quantizes with ``method`` and returns the calibrated model and its fake_quant file."""
    folder.mkdir(parents=True)
    definition, config = folder / "quant.cfg", folder / "config.json"
    onnx_file, record = folder / "modified.onnx", folder / "record.txt"
    definition.write_text(method.definition, encoding="utf-8")
    example = subject.train[:BATCH_SIZE]
    axes = {"input": {0: "batch"}, "output": {0: "batch"}}
    amct.create_quant_config(config, subject.model, example, config_defination=definition)
    model = amct.quantize_model(config, onnx_file, record, subject.model, example, ["input"], ["output"], axes)
    if method.updates_norms:
        update_norms(model, subject.train)
    batches = subject.train.split(BATCH_SIZE)[:BATCH_NUM]
    for batch in batches:
        model(batch)
    if method.refines:
        amct.refine(model, batches, progress=False)
    amct.save_model(onnx_file, record, folder / "saved", model)
    return model, folder / "saved_fake_quant_model.onnx"


def update_norms(model: nn.Module, images: Tensor) -> None:
    """Updates the BatchNorm statistics on ``BN_FORWARDS`` random batches, the same batches in each call."""
    generator = torch.Generator().manual_seed(0)
    amct.update_bn_status(model, True)
    for _ in range(BN_FORWARDS):
        model(images[torch.randint(len(images), (BATCH_SIZE,), generator=generator)])
    amct.update_bn_status(model, False)


def _top1(logits: Images, labels: NDArray[np.int64]) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def _subject(name: str) -> Subject:
    train, held_out = digits.load()
    model = _with_pooling_module(trained(name)).eval()
    return Subject(name, model, train.normalized(), held_out.normalized(), held_out.labels.numpy())


def _with_pooling_module(net: nn.Module) -> nn.Module:
    if isinstance(net, MobileNetV2):
        return PooledMobileNet(net)
    return PooledShuffleNet(net) if isinstance(net, ShuffleNet) else net


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="default: all")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
