"""Learned rounding: less output error than its start, on the same grid, and the same again."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hotwheels.amct_pytorch.core.refine import soft_rounding
from hotwheels.amct_pytorch.core.refine.grid import RowGrid
from hotwheels.amct_pytorch.core.refine.soft_rounding import OutputSample, learned

ROWS, SIZE, POSITIONS = 4, 8, 600
GRIDS = {
    "uniform": RowGrid(torch.full((1, ROWS), 0.5, dtype=torch.float64), largest=7),
    "codebook": RowGrid(
        torch.full((1, ROWS), 0.03, dtype=torch.float64),
        codebook=torch.tensor([-127, -90, -60, -40, -25, -14, -6, 0, 5, 12, 22, 36, 55, 80, 104, 127]).double(),
    ),
}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def problem(activation=None):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(1, ROWS, SIZE, generator=generator, dtype=torch.float64)
    columns = torch.randn(1, POSITIONS, SIZE, generator=generator) @ torch.randn(SIZE, SIZE, generator=generator)
    return weight, OutputSample(columns, columns @ weight.float().transpose(1, 2), activation)


def found(weight, sample, grid, seed=0):
    shift = torch.zeros(1, 1, ROWS)
    start = grid.nearest(weight)
    result = learned(start, weight, grid, sample, shift, torch.Generator().manual_seed(seed))
    return start, result, [sample.errors(one.float(), shift).sum() for one in (start, result)]


@every_grid
@pytest.mark.parametrize("activation", [None, F.relu6], ids=["linear", "relu6"])
def test_the_output_comes_nearer(grid, activation):
    _, _, (before, after) = found(*problem(activation), grid)
    assert after < 0.9 * before


@every_grid
def test_every_weight_stays_or_moves_by_one_level_towards_the_target(grid):
    weight, sample = problem()
    start, result, _ = found(weight, sample, grid)
    torch.testing.assert_close(grid.nearest(result), result, atol=1e-6, rtol=0)
    moved = result != start
    assert moved.any()
    assert torch.equal((result - start).sign()[moved], (weight - start).sign()[moved])
    between = (grid.levels(start) + grid.levels(result))[moved] / 2
    levels = torch.arange(-7, 8) if grid.codebook is None else grid.codebook
    assert not torch.isin(between, levels.double()).any(), "no level lies between the two"


@pytest.mark.parametrize("activation", [None, F.relu, F.relu6], ids=["linear", "relu", "relu6"])
def test_slope_is_the_gradient_of_the_mean_error(activation):
    weight, sample = problem(activation)
    weight, shift = (0.9 * weight).float().requires_grad_(), torch.linspace(-1.0, 1.0, ROWS).reshape(1, 1, ROWS)
    (expected,) = torch.autograd.grad(sample.errors(weight, shift).mean(), [weight])
    torch.testing.assert_close(sample.slope(weight.detach(), shift), expected)


def test_weights_at_the_end_of_a_uniform_grid_stay():
    """They may determine the grid."""
    weight, sample = problem()
    weight[0, :, 0] = 3.2
    start, result, _ = found(weight, sample, GRIDS["uniform"])
    is_end = start.abs() == 7 * 0.5
    weight[0, 0, 0] = 9.0
    assert torch.equal(result[is_end], start[is_end])
    start, result, _ = found(weight, sample, GRIDS["uniform"])
    assert result[0, 0, 0] == 3.5


def test_equal_seeds_give_equal_weights():
    weight, sample = problem()
    first, second = (found(weight, sample, GRIDS["uniform"])[1] for _ in range(2))
    assert torch.equal(first, second)


def test_a_centred_sample_has_the_errors_of_a_bias_that_corrects_the_means():
    weight, sample = problem(F.relu)
    rounded = GRIDS["uniform"].nearest(weight).float()
    means = sample.columns.mean(1, keepdim=True), sample.outputs.mean(1, keepdim=True)
    bias = means[1] - means[0] @ rounded.transpose(1, 2)
    wanted = (F.relu(sample.columns @ rounded.transpose(1, 2) + bias) - F.relu(sample.outputs)).square().mean(1)
    torch.testing.assert_close(sample.centred(*means).errors(rounded, means[1]), wanted)


def dense(start, target, grid, sample, generator):
    """The same descent with torch's Adam on the variables of all weights, decided or not."""
    first, step = start.float(), (soft_rounding._second_level(start, target, grid) - start).float()
    share = (target.float() - first) / torch.where(step != 0, step, torch.inf)
    variable = soft_rounding._first_variable(share)
    optimizer = torch.optim.Adam([variable], lr=0.1)
    shift = torch.zeros(1, 1, ROWS)
    unit = sample.errors(first, shift).mean()
    sample = sample.at(torch.randperm(POSITIONS, generator=generator))
    for number in range(soft_rounding.STEPS):
        sigmoid = torch.sigmoid(variable)
        openness = (1.2 * sigmoid - 0.1).clamp(0, 1)
        place = int(torch.randint(POSITIONS - 255, (), generator=generator))
        part = sample.at(torch.arange(place, place + 256))
        slope = part.slope(first + openness * step, shift) * step / unit
        side = (2 * openness - 1).abs()
        progress = (number / soft_rounding.STEPS - 0.2) / 0.8
        if progress > 0:
            exponent = 2 + 0.5 * 18 * (1 + math.cos(progress * math.pi))
            slope -= 400 * exponent * side ** (exponent - 1) * (sigmoid - 0.5).sign() / slope.numel()
        variable.grad = slope * (side < 1) * sigmoid * (1 - sigmoid) * 1.2
        optimizer.step()
    return torch.where(1.2 * torch.sigmoid(variable) - 0.1 > 0.5, start + step.double(), start)


@every_grid
def test_a_decided_weight_stays_decided(grid):
    """So leaving decided weights out of the descent changes nothing."""
    weight, sample = problem(F.relu6)
    start, result, _ = found(weight, sample, grid)
    wanted = dense(start, weight, grid, sample, torch.Generator().manual_seed(0))
    assert (wanted != start).any()
    assert torch.equal(result, wanted)


def test_a_layer_without_a_second_level_is_left_as_it_is():
    weight, sample = problem()
    start, result, _ = found(100.0 * weight.sign(), sample, GRIDS["uniform"])
    assert torch.equal(result, start)
