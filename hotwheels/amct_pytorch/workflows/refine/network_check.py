"""The check of a refined network as a whole: changes that raise the error at its outputs are taken back.

Every layer is refined for its own output. That the outputs of the network are nearer to the float network's, too, is
checked on the pictures held out.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ...backends.batches.example import Example
from ...log import get_logger
from ...nn.mode import Mode
from ...quantizers.distributed import process_count, process_rank, total
from .held_out import split

Part = Sequence[tuple[Tensor, Tensor]]  # tensors of the model, each with its value before the refinement

_log = get_logger(__name__)
_STANDARD_ERRORS = 2.0  # by which a loss must exceed 0: the mean of few pictures is partly chance
_NO_NOISE = 1e-30  # of the signal: smaller noise counts as this


class Outputs(Protocol):
    """A network as it was and as it is refined."""

    def outputs(self, batch: tuple[Any, ...], mode: Mode, *, is_refined: bool) -> tuple[Tensor, ...]:
        """Returns the tensors that a forward on ``batch`` in ``mode`` gives."""


@torch.no_grad()
def take_back_losses(network: Outputs, batches: Sequence[tuple[Any, ...]], parts: Mapping[str, Part]) -> frozenset[str]:
    """Takes back, in place, ``parts`` of a refinement that lose at the outputs; returns their names.

    A held-out picture's loss is the ratio of the noise at the outputs of the refined network to that of the network
    before, in dB. The refinement loses if the mean over pictures is more than two standard errors above 0; of a single
    picture, above 0. Then the last part, the last quarter or the last half of the parts is taken back, whichever gives
    the least loss, and all if none makes it negative: each part was made for the refined parts in front of it.
    Three forwards per batch if nothing is lost, three more for each of these choices else. Memory does not grow with
    the batches, and every process of a distributed run decides alike.

    Args:
      network: The model and the copy of it as it was.
      batches: Data of this process.
      parts: The changed tensors by name of their layer, in the order in which they were changed.
    """
    if not parts:
        return frozenset()
    loss, error = _loss(network, batches)
    if not loss > _STANDARD_ERRORS * error:
        return frozenset()
    names = [*parts]
    least, taken = 0.0, names
    for count in sorted({1, len(names) // 4, len(names) // 2} - {0, len(names)}):
        with _without([pair for name in names[-count:] for pair in parts[name]]):
            found, _ = _loss(network, batches)
        if found < least:
            least, taken = found, names[-count:]
    for name in taken:
        _restore(parts[name])
    what = f"from '{taken[0]}' on, so the noise falls by {-least:.1f} dB" if len(taken) < len(names) else "everything"
    _log.info(
        "refine: on held-out pictures the noise at the outputs of the network rose by %.1f dB; taken back: %s.",
        loss, what,
    )  # fmt: skip
    return frozenset(taken)


def _loss(network: Outputs, batches: Sequence[tuple[Any, ...]]) -> tuple[float, float]:
    """Returns the mean loss in dB over the held-out pictures of all processes, and its standard error.

    The loss is 0 without held-out pictures, the error 0 of a single one.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    for index, batch in enumerate(batches):
        losses = _losses(network, batch, index * process_count() + process_rank())
        sums += torch.stack((torch.tensor(len(losses)), losses.sum(), losses.square().sum()))
    count, whole, squares = total(sums).tolist()
    mean = whole / max(count, 1.0)
    variance = max(squares / max(count, 1.0) - mean * mean, 0.0)
    return mean, math.sqrt(variance / (count - 1.0)) if count > 1 else 0.0


def _losses(network: Outputs, batch: tuple[Any, ...], number: int) -> Tensor:
    """Returns the losses in dB of the held-out pictures of one batch, float64 [pictures]."""
    size = Example(batch).batch_size or 1
    if not any(_length(split(count, number)[1]) for count in {1, size}):
        return torch.zeros(0, dtype=torch.float64)
    wanted = _floats(network.outputs(batch, Mode.FLOAT, is_refined=False))
    is_by_picture = bool(wanted) and all(one.dim() and one.shape[0] == size for one in wanted)
    count = size if is_by_picture else 1
    held = split(count, number)[1]
    if not wanted or not _length(held):
        return torch.zeros(0, dtype=torch.float64)
    noises = []
    for is_refined in (False, True):
        found = _floats(network.outputs(batch, Mode.FAKE_QUANT, is_refined=is_refined))
        each = torch.stack([_noise(*pair, count)[held] for pair in zip(wanted, found, strict=True)])
        noises.append(each.sum(0).clamp(min=_NO_NOISE))
    return 10.0 * torch.log10(noises[1] / noises[0])


def _noise(wanted: Tensor, found: Tensor, count: int) -> Tensor:
    """Returns the noise of each of ``count`` pictures in units of its signal, float64 [count], on the CPU."""
    exact = wanted.double().reshape(count, -1)
    error = (exact - found.double().reshape(count, -1)).nan_to_num(0.0)  # inf - inf: masked scores, for instance
    power = exact.nan_to_num(0.0, 0.0, 0.0).square().sum(1)
    return (error.square().sum(1) / torch.where(power > 0, power, 1.0)).cpu()


def _floats(outputs: Sequence[Tensor]) -> list[Tensor]:
    return [one for one in outputs if one.is_floating_point()]


def _length(part: slice) -> int:
    return int(part.stop - part.start)


@contextlib.contextmanager
def _without(part: Part) -> Iterator[None]:
    """Returns a context in which the tensors of ``part`` have their values from before."""
    refined = [now.clone() for now, _ in part]
    _restore(part)
    try:
        yield
    finally:
        for (now, _), value in zip(part, refined, strict=True):
            now.copy_(value)


def _restore(part: Part) -> None:
    for now, before in part:
        now.copy_(before)
