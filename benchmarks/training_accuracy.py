"""Measures what quantization-aware training gains over post-training quantization, on networks trained on digits.

W8A8 (ARQ weights) and W4A8 (LNQ weights) are trained to give the logits of the float network, from the ranges of a
calibration on; what is compared is W8A8 and W4A8 (SNQ weights) after that same calibration. All results are ONNX files
run by onnxruntime on the held-out digits, SQNR as in ``benchmarks.accuracy``. Training: Adam, cosine schedule, mean
square of the difference of the logits, images shifted by up to a pixel, BatchNorms frozen, no labels; see ``Recipe``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import hotwheels.amct_pytorch as amct
from benchmarks import static_quantization
from benchmarks.accuracy import EXPORT_SETTING, Outcome, Setting, Subject, float_file, make_subject, outcome_of, top1_of
from benchmarks.table import as_markdown, as_text, verdict
from sample.common import digits

NETWORKS = ("resnet50", "mobilenet_v2")
SEED = 0
MAX_LOSS = 0.5  # points of top-1 that W4A8 may be below the float network after training
GAIN = 3.0  # dB wanted above SNQ after calibration
W8, W4, W8_TRAINED, W4_TRAINED = "W8A8", "W4A8 SNQ", "W8A8 trained", "W4A8 LNQ trained"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How long and how fast is trained.

    Attributes:
      epochs: Passes over the 1,437 training images.
      peak_lr: First learning rate of Adam, for weights and ranges alike; it falls to 0.
      batch_size: Images per step.
      max_shift: Pixels by which images are moved.
    """

    epochs: int
    peak_lr: float
    batch_size: int = 32
    max_shift: int = 1


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to quantize.

    Attributes:
      weights: Weight quantizer.
      recipe: How it is trained, None for calibration only.
    """

    weights: str
    recipe: Recipe | None = None

    @property
    def definition(self) -> str:
        """The simple configuration."""
        return f"common_config:\n  weight_quant_params:\n    quantizer: {self.weights}\n"


METHODS: Mapping[str, Method] = {
    W8: Method("ArqWeightFakeQuantize"),
    W4: Method("SnqWeightFakeQuantize"),
    W8_TRAINED: Method("ArqWeightFakeQuantize", Recipe(epochs=2, peak_lr=1e-4)),
    W4_TRAINED: Method("LnqFakeQuantize", Recipe(epochs=8, peak_lr=1e-3)),
}
HEADER = (
    "network",
    "float top-1",
    *METHODS,
    f"LNQ lost (<= {MAX_LOSS})",
    f"LNQ gain (>= {GAIN:.0f} dB)",
    "W8A8 not below",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """All methods on one network."""

    network: str
    float_top1: float
    outcomes: Mapping[str, Outcome]

    @property
    def lost(self) -> float:
        """Points of top-1 that LNQ is below the float network."""
        return 100 * (self.float_top1 - self.outcomes[W4_TRAINED].top1)

    @property
    def gain(self) -> float:
        """SQNR of trained LNQ over SNQ after calibration, dB."""
        return self.outcomes[W4_TRAINED].sqnr - self.outcomes[W4].sqnr

    @property
    def is_never_below(self) -> bool:
        """Whether W8A8 is at least as good after training as after calibration, in both measures."""
        trained, plain = self.outcomes[W8_TRAINED], self.outcomes[W8]
        return trained.sqnr >= plain.sqnr and trained.top1 >= plain.top1

    def cells(self) -> tuple[str, ...]:
        """The row as text, under ``HEADER``."""
        checks = (
            f"{self.lost:+.2f} {verdict(self.lost, MAX_LOSS)}",
            f"{self.gain:+.2f} dB {verdict(self.gain, GAIN, more_is_better=True)}",
            "ok" if self.is_never_below else "MISSED",
        )
        return self.network, f"{self.float_top1:.2%}", *(found.cell() for found in self.outcomes.values()), *checks


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    torch.set_num_threads(1)  # on layers so small, two are slower beside another busy process
    with tempfile.TemporaryDirectory() as folder:
        rows = [compare(make_subject(name, Path(folder))) for name in args.networks]
    print("\nSQNR of the logits and top-1 after calibration and after training")
    print((as_markdown if args.markdown else as_text)(HEADER, [row.cells() for row in rows]))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


def compare(subject: Subject) -> Row:
    """Returns what each method does to the network."""
    files = {name: quantize(subject, name, method) for name, method in METHODS.items()}
    expected = static_quantization.run(float_file(subject, Setting(W8)), subject.images)
    outcomes = {
        name: outcome_of(static_quantization.run(file, subject.images), expected, subject)
        for name, file in files.items()
    }
    return Row(subject.name, top1_of(expected, subject.labels), outcomes)


def quantize(subject: Subject, name: str, method: Method) -> Path:
    """Calibrates, trains if the method says so, and returns the fake_quant ONNX file."""
    config, definition = subject.folder / f"{name}.json", subject.folder / f"{name}.yaml"
    definition.write_text(method.definition, encoding="utf-8")
    amct.create_quant_config_fx(config, subject.model, definition)
    model = amct.create_quant_model_fx(config, subject.model)
    amct.enable_quantization(model, calibration=True)
    calibration = torch.from_numpy(subject.calibration)
    with torch.no_grad():
        model(calibration)
    if method.recipe:
        amct.enable_quantization(model, fake_quant=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            distill(model, subject.model, method.recipe, f"train {subject.name} {name}")
    amct.save_quant_model_fx(model, subject.folder / name, calibration[:1], EXPORT_SETTING)
    return subject.folder / f"{name}_fake_quant_model.onnx"


def distill(model: nn.Module, teacher: nn.Module, recipe: Recipe, title: str) -> None:
    """Trains the quantized ``model`` in place to give the logits of ``teacher``; no label is used."""
    train_set, _ = digits.load()
    steps = len(train_set) // recipe.batch_size
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.peak_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs * steps)
    with tqdm(total=recipe.epochs * steps, desc=title, unit="step") as progress:
        model.train()
        amct.freeze_batch_norm(model)  # the float network's statistics are to hold, they fit its logits
        for _ in range(recipe.epochs):
            for batch in torch.randperm(len(train_set))[: steps * recipe.batch_size].view(steps, -1):
                images = digits.to_input(_moved(train_set.images[batch], recipe.max_shift))
                loss = _distance(model(images), teacher, images)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.update()
                progress.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    model.eval()


def _moved(images: Tensor, most: int) -> Tensor:
    """Moves a batch ``[N, H, W]`` by a few pixels, one random offset for all; what leaves comes in opposite."""
    down, right = (int(value) for value in torch.randint(-most, most + 1, (2,)))
    return images.roll((down, right), (1, 2))


def _distance(logits: Tensor, teacher: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        wanted = teacher(images)
    return F.mse_loss(logits, wanted)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="default: both")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, for docs/accuracy.md")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
