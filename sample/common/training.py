"""Trains a network of the zoo on the digits, once, and keeps the result."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from sample.common import digits
from sample.common.zoo import RECIPES, Recipe

CACHE = Path(__file__).resolve().parents[1] / ".cache"
SEED = 0
MAX_SHIFT = 3  # pixels of the 32; more pushes strokes of wide digits out of the image
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.05


def trained(name: str, fold: int = 0) -> nn.Module:
    """Returns the network ``name`` of the zoo in eval mode, trained now or in an earlier run, not on that ``fold``.

    A cached checkpoint is used only if it comes from this recipe and this file; torch's random state is left as it was.
    """
    recipe = RECIPES[name]
    model = recipe.build()
    cached = CACHE / f"{name}_{_fingerprint(recipe, model, fold)}.pt"
    if cached.exists():
        model.load_state_dict(torch.load(cached, weights_only=True))
        return model.eval()
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(SEED)
        model = recipe.build()
        train(model, recipe, name, digits.load(fold)[0])
    _store(model, cached)
    return model.eval()


def train(model: nn.Module, recipe: Recipe, name: str, train_set: digits.Digits) -> None:
    """Trains ``model`` in place on ``train_set``."""
    steps = len(train_set) // recipe.batch_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.peak_lr, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_lr, total_steps=recipe.epochs * steps)
    model.train()
    with tqdm(total=recipe.epochs * steps, desc=f"train {name}", unit="batch") as progress:
        for _ in range(recipe.epochs):
            # The last, smaller batch is dropped: it would disturb the batch statistics.
            for batch in torch.randperm(len(train_set))[: steps * recipe.batch_size].view(steps, -1):
                logits = model(digits.to_input(_shift(train_set.images[batch])))
                loss = F.cross_entropy(logits, train_set.labels[batch], label_smoothing=LABEL_SMOOTHING)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.update()
                progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


@torch.no_grad()
def accuracy(model: nn.Module, data: digits.Digits) -> float:
    """Returns the share of digits that ``model`` in eval mode recognises."""
    predicted = model.eval()(data.normalized()).argmax(dim=1)
    return (predicted == data.labels).float().mean().item()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps torch to one thread: on layers so small, two are ten times slower beside another busy process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _shift(images: Tensor) -> Tensor:
    """Moves a batch ``[N, H, W]`` by a few pixels, one random offset for all, filling with the black background."""
    down, right = (int(value) for value in torch.randint(0, 2 * MAX_SHIFT + 1, (2,)))
    size = images.shape[-1]
    return F.pad(images, [MAX_SHIFT] * 4)[:, down : down + size, right : right + size]


def _fingerprint(recipe: Recipe, model: nn.Module, fold: int) -> str:
    """Returns a short name for all that decides what training gives: hyper-parameters, shapes, data, this file."""
    shapes = [(key, tuple(value.shape)) for key, value in model.state_dict().items()]
    code = Path(__file__).read_text(encoding="utf-8")
    settings = (recipe.epochs, recipe.peak_lr, recipe.batch_size, shapes, fold, code)
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:12]


def _store(model: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")  # two runs may train the same network at once
    torch.save(model.state_dict(), temporary)
    temporary.replace(path)
