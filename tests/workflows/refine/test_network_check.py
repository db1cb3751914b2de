"""take_back_losses: what raises the error at the outputs on held-out pictures, more than by chance, is taken back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hotwheels.amct_pytorch.nn.mode import Mode
from hotwheels.amct_pytorch.workflows.refine.network_check import take_back_losses

PICTURES, CLASSES = 16, 10
HELD = slice(12, 16)


class Network:
    """Its float outputs are the batch; errors of a picture are those below, times a factor for each part."""

    def __init__(self, before: Tensor, **factors: float) -> None:
        self.errors = before
        self.factors = {name: torch.tensor(one) for name, one in factors.items()}
        self.parts = {name: [(one, torch.ones(()))] for name, one in self.factors.items()}
        self.forwards = 0

    def outputs(self, batch: tuple[Tensor, ...], mode: Mode, *, is_refined: bool) -> tuple[Tensor, ...]:
        self.forwards += 1
        (x,) = batch
        if mode is Mode.FLOAT:
            return (x,)
        factor = torch.stack([*self.factors.values()]).prod() if is_refined else 1.0
        return (x + factor * self.errors[: len(x)],)

    def values(self) -> dict[str, float]:
        return {name: float(one) for name, one in self.factors.items()}


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(**factors: float) -> Network:
    return Network(0.01 * drawn(0, PICTURES, CLASSES), **factors)


BATCHES = [(drawn(seed, PICTURES, CLASSES),) for seed in (1, 2)]


def test_a_gain_is_kept_after_three_forwards_per_batch() -> None:
    gains = network(weights=0.5, biases=1.5)
    assert take_back_losses(gains, BATCHES, gains.parts) == frozenset()
    assert gains.values() == {"weights": 0.5, "biases": 1.5}
    assert gains.forwards == 3 * len(BATCHES)


@pytest.mark.parametrize(
    ("factors", "taken"),
    [
        ((0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 999.0), "h"),
        ((0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 99.0, 9.0), "gh"),
        ((0.5, 0.5, 0.5, 0.5, 9.0, 9.0, 1.0, 1.0), "efgh"),
        ((9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0), "abcdefgh"),
        ((2.0,), "a"),
    ],
)
def test_the_last_parts_are_taken_back_or_all(log_lines, factors: tuple[float, ...], taken: str) -> None:
    names = "abcdefgh"[: len(factors)]
    loses = network(**dict(zip(names, factors, strict=True)))
    assert take_back_losses(loses, BATCHES, loses.parts) == set(taken)
    wanted = {name: 1.0 if name in taken else one for name, one in zip(names, factors, strict=True)}
    assert loses.values() == wanted
    (line,) = log_lines.of("INFO")
    assert ("taken back: everything." in line) == (taken == names)
    assert (f"from '{taken[0]}' on, so the noise falls by" in line) == (taken != names)


def test_the_log_has_the_loss_and_the_gain_that_is_left(log_lines) -> None:
    loses = network(first=0.5, last=4.0)
    take_back_losses(loses, BATCHES, loses.parts)
    (line,) = log_lines.of("INFO")
    assert line.endswith("rose by 6.0 dB; taken back: from 'last' on, so the noise falls by 6.0 dB.")


def test_nothing_is_done_without_a_change() -> None:
    idle = network()
    assert take_back_losses(idle, BATCHES, {}) == frozenset()
    assert not idle.forwards


@pytest.mark.parametrize("pictures_that_lose", [range(12), range(12, 16)], ids=["others", "held out"])
def test_held_out_pictures_decide(pictures_that_lose: range) -> None:
    loses = network(weights=1.0)

    def outputs(batch: tuple[Tensor, ...], mode: Mode, *, is_refined: bool) -> tuple[Tensor, ...]:
        (result,) = Network.outputs(loses, batch, mode, is_refined=is_refined)
        if is_refined:
            result[list(pictures_that_lose)] += 1.0
        return (result,)

    loses.outputs = outputs  # type: ignore[method-assign]
    assert bool(take_back_losses(loses, BATCHES, loses.parts)) == (pictures_that_lose.start == HELD.start)


@pytest.mark.parametrize(("ratios", "is_lost"), [((4.0, 0.5, 1.3, 0.9), False), ((1.5, 1.2, 1.3, 1.4), True)])
def test_a_loss_that_the_pictures_do_not_agree_on_is_chance(ratios: tuple[float, ...], is_lost: bool) -> None:
    one = network(weights=1.0)
    factors = torch.ones(PICTURES, 1)
    factors[HELD, 0] = torch.tensor(ratios)

    def outputs(batch: tuple[Tensor, ...], mode: Mode, *, is_refined: bool) -> tuple[Tensor, ...]:
        (result,) = Network.outputs(one, batch, mode, is_refined=is_refined)
        return (batch[0] + factors * (result - batch[0]) if is_refined else result,)

    one.outputs = outputs  # type: ignore[method-assign]
    assert bool(take_back_losses(one, BATCHES[:1], one.parts)) == is_lost


def test_small_batches_hold_out_every_fourth() -> None:
    loses = network(weights=2.0)
    small = [(x,) for x in BATCHES[0][0].split(2)]
    assert not take_back_losses(loses, small[:3], loses.parts)
    assert not loses.forwards
    assert take_back_losses(loses, small, loses.parts) == {"weights"}
    assert loses.forwards == 3 * 2  # batches 3 and 7


def test_outputs_of_another_first_axis_count_as_one_picture() -> None:
    loses = network(weights=2.0)

    def outputs(batch: tuple[Tensor, ...], mode: Mode, *, is_refined: bool) -> tuple[Tensor, ...]:
        (result,) = Network.outputs(loses, batch, mode, is_refined=is_refined)
        return result.T, result.argmax(1)

    loses.outputs = outputs  # type: ignore[method-assign]
    assert not take_back_losses(loses, BATCHES, loses.parts)  # two pictures: none is held out
    assert take_back_losses(loses, BATCHES * 2, loses.parts) == {"weights"}


def test_outputs_that_are_infinite_on_purpose_do_not_disturb() -> None:
    loses = network(weights=2.0)

    def outputs(batch: tuple[Tensor, ...], mode: Mode, *, is_refined: bool) -> tuple[Tensor, ...]:
        (result,) = Network.outputs(loses, batch, mode, is_refined=is_refined)
        return (torch.cat([result, torch.full_like(result, -torch.inf)], 1),)

    loses.outputs = outputs  # type: ignore[method-assign]
    assert take_back_losses(loses, BATCHES, loses.parts) == {"weights"}
    assert loses.values() == {"weights": 1.0}
