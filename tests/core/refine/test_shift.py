"""ShiftSum: means that the pictures agree on are taken, means by chance are not."""

from __future__ import annotations

import pytest
import torch

from hotwheels.amct_pytorch.core.refine.shift import ShiftSum

CHANNELS = 12


def shift_of(*batches, axis=1):
    sums = ShiftSum(CHANNELS)
    for errors in batches:
        sums.add(errors, axis)
    return sums.shift()


def noise(pictures, seed=0, size=3):
    return torch.randn(
        pictures, CHANNELS, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def test_a_shift_that_all_pictures_share_is_taken_whole():
    means = torch.linspace(-1.0, 1.0, CHANNELS, dtype=torch.float64)
    centred = noise(8)
    centred -= centred.mean((2, 3), keepdim=True)
    assert torch.allclose(shift_of(centred + means[:, None, None]), means)


def test_the_factor_is_that_of_james_and_stein():
    errors = noise(8) + torch.linspace(-1.0, 1.0, CHANNELS)[:, None, None]
    by_picture = errors.mean((2, 3)).numpy()
    mean, standard_error = by_picture.mean(0), by_picture.std(0, ddof=1) / 8**0.5
    factor = 1 - (CHANNELS - 2) / (mean**2 / standard_error**2).sum()
    assert 0.5 < factor < 0.99
    assert torch.allclose(shift_of(errors), torch.from_numpy(factor * mean))


def test_it_is_nearer_to_the_true_shift_than_the_means():
    """On average, whatever the true shift is: here none, one of the size of the chance, and a large one."""
    for size in (0.0, 0.15, 1.0):
        true = size * torch.linspace(-1.0, 1.0, CHANNELS, dtype=torch.float64)
        shrunk = means = 0.0
        for seed in range(20):
            errors = noise(6, seed, size=1) + true[:, None, None]
            shrunk += float((shift_of(errors) - true).square().sum())
            means += float((errors.mean((0, 2, 3)) - true).square().sum())
        assert shrunk < means


def test_batches_and_processes_are_one_set_of_pictures():
    errors = noise(9) + 1.0
    whole = shift_of(errors)
    assert torch.allclose(shift_of(errors[:4], errors[4:]), whole)
    parts = [ShiftSum(CHANNELS) for _ in range(2)]
    for part, batch in zip(parts, errors.split(5), strict=True):
        part.add(batch, 1)
    others = iter((parts[1]._count, parts[1]._sums))
    parts[0].merge(lambda one: one + next(others))
    assert torch.allclose(parts[0].shift(), whole)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_channels_may_lie_along_any_axis(axis):
    errors = noise(8).flatten(2)  # [pictures, channels, positions]
    moved = errors.movedim(1, axis)
    expected = errors.mean((0, 2)) if axis == 0 else shift_of(errors)  # axis 0: one picture
    assert torch.allclose(shift_of(moved, axis=axis), expected)


def test_one_picture_keeps_its_means():
    errors = noise(1)
    assert torch.allclose(shift_of(errors), errors.mean((0, 2, 3)))
