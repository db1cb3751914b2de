"""Measures what quantization-aware training gains over post-training quantization, on networks trained on digits.

W8A8 (ARQ weights) and W4A8 (LNQ weights) are trained from the ranges of a calibration, and compared with W8A8 and W4A8
(SNQ weights) after that same calibration. All results are ONNX files run by onnxruntime on held-out digits: 5-fold
cross-validation, so every digit is held out once, and each fold has its own float network. SQNR as in
``benchmarks.accuracy``. Training: Adam, cosine schedule, images shifted by up to a pixel, BatchNorms frozen; the loss
is the mean square of the difference to the logits of the float network and, for W8A8, the cross-entropy of the labels
as the float network was trained with; see ``Recipe``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

import hotwheels.amct_pytorch as amct
from benchmarks import static_quantization
from benchmarks.accuracy import EXPORT_SETTING, Outcome, Setting, Subject, float_file, make_subject, outcome_of, top1_of
from benchmarks.static_quantization import Images
from benchmarks.table import as_markdown, as_text, verdict
from sample.common import digits
from sample.common.training import LABEL_SMOOTHING

NETWORKS = ("resnet50", "mobilenet_v2")
SEED = 0
MAX_LOSS = 0.5  # points of top-1 that W4A8 may be below the float network after training
GAIN = 3.0  # dB wanted above SNQ after calibration
FLOAT = "float"
W8, W4, W8_TRAINED, W4_TRAINED = "W8A8", "W4A8 SNQ", "W8A8 trained", "W4A8 LNQ trained"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training.

    Attributes:
      epochs: Passes over the 1,437 (1,440 in the last fold) training images.
      peak_lr: First learning rate of Adam, for weights and ranges alike; it falls to 0.
      label_weight: Factor of the cross-entropy of the labels in the loss; the distance of the logits has factor 1.
      batch_size: Images per step.
      max_shift: Largest shift of the images, in pixels.
    """

    epochs: int
    peak_lr: float
    label_weight: float = 0.0
    batch_size: int = 32
    max_shift: int = 1


@dataclasses.dataclass(frozen=True)
class Method:
    """A method to quantize.

    Attributes:
      weights: Weight quantizer.
      recipe: The training; None for calibration only.
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
    W8_TRAINED: Method("ArqWeightFakeQuantize", Recipe(epochs=2, peak_lr=1e-4, label_weight=1.0)),
    W4_TRAINED: Method("LnqFakeQuantize", Recipe(epochs=8, peak_lr=1e-3)),
}
HEADER = (
    "network",
    "float top-1",
    *METHODS,
    f"LNQ lost (<= {MAX_LOSS})",
    f"LNQ gain (>= {GAIN:.0f} dB)",
    "W8A8 gained digits (>= 0)",
    "in each fold",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """All methods on one network.

    Attributes:
      network: Key of the zoo.
      float_top1: Of the float network.
      outcomes: The accuracy of each method, over all folds.
      gained: Held-out digits that W8A8 recognises more after training than after calibration, for each fold.
    """

    network: str
    float_top1: float
    outcomes: Mapping[str, Outcome]
    gained: tuple[int, ...]

    @property
    def lost(self) -> float:
        """Points of top-1 that LNQ is below the float network."""
        return 100 * (self.float_top1 - self.outcomes[W4_TRAINED].top1)

    @property
    def gain(self) -> float:
        """SQNR of trained LNQ over SNQ after calibration, dB."""
        return self.outcomes[W4_TRAINED].sqnr - self.outcomes[W4].sqnr

    def cells(self) -> tuple[str, ...]:
        """The row as text, under ``HEADER``."""
        checks = (
            f"{self.lost:+.2f} {verdict(self.lost, MAX_LOSS)}",
            f"{self.gain:+.2f} dB {verdict(self.gain, GAIN, more_is_better=True)}",
            f"{sum(self.gained):+d} {verdict(sum(self.gained), 0, more_is_better=True)}",
            " ".join(f"{gained:+d}" for gained in self.gained),
        )
        return self.network, f"{self.float_top1:.2%}", *(found.cell() for found in self.outcomes.values()), *checks


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    torch.set_num_threads(1)  # two threads are slower on layers this small if the machine is busy
    rows = [compare(name, args.folds) for name in args.networks]
    print("\nSQNR of the logits and top-1 after calibration and after training")
    print((as_markdown if args.markdown else as_text)(HEADER, [row.cells() for row in rows]))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


def compare(network: str, folds: int) -> Row:
    """Returns the accuracy of each method on the digits that the first ``folds`` folds hold out."""
    found: list[dict[str, Images]] = []
    labels: list[NDArray[np.int64]] = []
    for fold in range(folds):
        with tempfile.TemporaryDirectory() as folder:
            subject = make_subject(network, Path(folder), fold)
            found.append(logits_of(subject))
            labels.append(subject.labels)
    joined = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    everything = np.concatenate(labels)
    outcomes = {name: outcome_of(joined[name], joined[FLOAT], everything) for name in METHODS}
    gained = (_right(one[W8_TRAINED], those) - _right(one[W8], those) for one, those in zip(found, labels, strict=True))
    return Row(network, top1_of(joined[FLOAT], everything), outcomes, tuple(gained))


def logits_of(subject: Subject) -> dict[str, Images]:
    """Returns the logits [N, 10] of the held-out digits by every method, and those of the float network."""
    files = {name: quantize(subject, name, method) for name, method in METHODS.items()}
    files[FLOAT] = float_file(subject, Setting(W8))
    return {name: static_quantization.run(file, subject.images) for name, file in files.items()}


def _right(logits: Images, labels: NDArray[np.int64]) -> int:
    return round(top1_of(logits, labels) * len(labels))


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
            train(model, subject, method.recipe, f"train {subject.name} {name}")
    amct.save_quant_model_fx(model, subject.folder / name, calibration[:1], EXPORT_SETTING)
    return subject.folder / f"{name}_fake_quant_model.onnx"


def train(model: nn.Module, subject: Subject, recipe: Recipe, title: str) -> None:
    """Trains the quantized ``model`` in place; the float network is its teacher."""
    train_set = subject.training
    steps = len(train_set) // recipe.batch_size
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.peak_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs * steps)
    with tqdm(total=recipe.epochs * steps, desc=title, unit="step") as progress:
        model.train()
        amct.freeze_batch_norm(model)  # keeps the teacher's statistics
        for _ in range(recipe.epochs):
            for batch in torch.randperm(len(train_set))[: steps * recipe.batch_size].view(steps, -1):
                images = digits.to_input(_moved(train_set.images[batch], recipe.max_shift))
                loss = _loss(model(images), subject.model, images, train_set.labels[batch], recipe)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.update()
                progress.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    model.eval()


def _moved(images: Tensor, most: int) -> Tensor:
    """Shifts a batch ``[N, H, W]`` cyclically by a few pixels, with one random shift for all images."""
    down, right = (int(value) for value in torch.randint(-most, most + 1, (2,)))
    return images.roll((down, right), (1, 2))


def _loss(logits: Tensor, teacher: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    with torch.no_grad():
        wanted = teacher(images)
    distance = F.mse_loss(logits, wanted)
    if not recipe.label_weight:
        return distance
    return distance + recipe.label_weight * F.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="default: both")
    parser.add_argument("--folds", type=int, choices=range(1, digits.FOLDS + 1), default=digits.FOLDS, metavar="N",
                        help="hold out the first N fifths of the digits only (default: all)")  # fmt: skip
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, for docs/accuracy.md")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
