"""Top-1 and top-5 accuracy of a torch module or of an ONNX file, and the table that compares them."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

Batches = DataLoader[tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """The counts of an evaluation.

    Attributes:
      top1: Images whose label has the largest logit.
      top5: Images whose label is among the five largest logits.
      images: Images in total.
      seconds: Time in the network and the loader together.
    """

    top1: int
    top5: int
    images: int
    seconds: float

    def row(self, name: str) -> str:
        """Returns one line of the table."""
        return f"{name:<12} {self.top1 / self.images:>8.2%} {self.top5 / self.images:>8.2%} {self.seconds:>8.1f}s"


def evaluate_torch(model: nn.Module, batches: Batches, limit: int | None, name: str, device: torch.device) -> Accuracy:
    """Evaluates ``model`` in eval mode on the first ``limit`` batches (None: all)."""
    model.to(device).eval()

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        return model(images.to(device)).cpu()

    return _evaluate(run, batches, limit, name)


def evaluate_onnx(file: Path, batches: Batches, limit: int | None, name: str) -> Accuracy:
    """Evaluates an ONNX file with one image input in onnxruntime on the CPU, on the same batches."""
    # Imported here, so that the torch evaluations work without onnxruntime.
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    input_name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        logits = session.run(None, {input_name: images.numpy()})[0]
        return torch.from_numpy(np.asarray(logits))

    return _evaluate(run, batches, limit, name)


def print_accuracies(results: dict[str, Accuracy]) -> None:
    """Prints one row per evaluation, in the order given."""
    images = next(iter(results.values())).images
    print(f"\n{f'{images} images':<12} {'top-1':>8} {'top-5':>8} {'time':>9}")
    for name, accuracy in results.items():
        print(accuracy.row(name))


def print_files(files: Iterable[Path]) -> None:
    """Prints path and size of each file; a path below the current folder is relative to it."""
    print("\nfiles written")
    for file in files:
        shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
        print(f"{file.stat().st_size / 1024:>10.1f} KiB  {shown}")


def _evaluate(run: Callable[[Tensor], Tensor], batches: Batches, limit: int | None, name: str) -> Accuracy:
    started = time.perf_counter()
    top1 = top5 = images = 0
    total = len(batches) if limit is None else min(limit, len(batches))
    for inputs, labels in tqdm(itertools.islice(batches, total), total=total, desc=name, unit="batch"):
        logits = run(inputs)
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = ranked == labels.unsqueeze(1)
        top1 += int(hits[:, 0].sum())
        top5 += int(hits.any(dim=1).sum())
        images += len(labels)
    return Accuracy(top1, top5, images, time.perf_counter() - started)
