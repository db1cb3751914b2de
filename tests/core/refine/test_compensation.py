"""Compensated rounding against slow searches, and columns against torch's own convolutions."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hotwheels.amct_pytorch.core.refine.columns import Geometry, as_rows, columns
from hotwheels.amct_pytorch.core.refine.compensation import compensated, descended, output_error
from hotwheels.amct_pytorch.core.refine.grid import RowGrid
from hotwheels.amct_pytorch.core.refine.grid_search import fitted_codebook
from hotwheels.amct_pytorch.core.refine.moments import MomentsSum, shifted_targets
from hotwheels.amct_pytorch.nn.weighted_op import WeightedOp
from hotwheels.amct_pytorch.ops.desc import Role
from hotwheels.amct_pytorch.workflows.refine.refinement import columns_of


def problem(rows=3, size=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, size, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(size, size, generator=generator, dtype=torch.float64)
    return torch.randn(1, rows, size, generator=generator, dtype=torch.float64), (x.T @ x).unsqueeze(0)


GRID = RowGrid(torch.full((1, 3), 0.4, dtype=torch.float64), largest=7)


@pytest.mark.parametrize("seed", range(5))
def test_rounding_is_between_the_best_of_all_neighbours_and_nearest(seed):
    target, hessian = problem(seed=seed)
    found = output_error(compensated(target, hessian, GRID, damping=0.01), target, hessian)
    nearest = output_error(GRID.nearest(target), target, hessian)
    best = torch.full_like(nearest, torch.inf)
    for choice in itertools.product((0.0, 1.0), repeat=target.shape[2]):
        candidate = (torch.floor(target / 0.4) + torch.tensor(choice, dtype=torch.float64)).clamp(-7, 7) * 0.4
        best = torch.minimum(best, output_error(candidate, target, hessian))
    assert found.sum() < nearest.sum()
    assert found.sum() <= 3 * best.sum()


def test_a_silent_input_is_rounded_to_nearest():
    target, hessian = problem()
    hessian[:, 2, :] = hessian[:, :, 2] = 0
    found = compensated(target, hessian, GRID)
    assert torch.equal(found[:, :, 2], GRID.nearest(target)[:, :, 2])
    assert found[:, :, 2].abs().sum() > 0


def test_uncorrelated_inputs_leave_nothing_to_compensate():
    target, _ = problem()
    assert torch.equal(compensated(target, torch.eye(6, dtype=torch.float64).unsqueeze(0), GRID), GRID.nearest(target))


def test_pinned_weights_stay_where_they_were():
    target, hessian = problem()
    pinned = torch.zeros_like(target, dtype=torch.bool)
    pinned[:, :, 4] = True
    found = compensated(target, hessian, GRID, pinned)
    assert torch.equal(found[:, :, 4], GRID.nearest(target)[:, :, 4])


@pytest.mark.parametrize("seed", range(5))
def test_a_sweep_of_descent_never_loses(seed):
    target, hessian = problem(seed=seed)
    start = GRID.nearest(target)
    found = descended(target, start, hessian, GRID)
    assert (output_error(found, target, hessian) <= output_error(start, target, hessian) + 1e-9).all()
    assert torch.equal(found, GRID.nearest(found))


def test_the_codebook_is_int8_with_127_and_better_than_nearest():
    target, hessian = problem(rows=32, size=24)
    scale = target.abs().amax(2) / 127
    start = RowGrid(scale, codebook=torch.linspace(-127, 127, 16, dtype=torch.float64).round())
    found, grid = fitted_codebook(target, hessian, start, has_one_scale=False)
    assert grid.codebook.abs().max() == 127
    assert torch.equal(grid.codebook, grid.codebook.round())
    assert torch.equal(found, grid.nearest(found))
    assert output_error(found, target, hessian).sum() < 0.7 * output_error(start.nearest(target), target, hessian).sum()


def test_a_codebook_stays_where_all_inputs_are_zero():
    target, hessian = problem()
    start = dataclasses.replace(GRID, largest=127, codebook=torch.linspace(-127, 127, 16, dtype=torch.float64).round())
    found, grid = fitted_codebook(target, torch.zeros_like(hessian), start, has_one_scale=False)
    assert torch.equal(grid.codebook, start.codebook) and torch.equal(grid.scale, start.scale)
    assert torch.equal(found, grid.nearest(found))


def test_the_shifted_target_solves_the_least_squares_problem():
    generator = torch.Generator().manual_seed(0)
    exact, other = (torch.randn(1, 500, 5, generator=generator) for _ in range(2))
    quantized = exact + 0.3 * other + 1.0
    weight = torch.randn(1, 2, 5, generator=generator, dtype=torch.float64)
    sums = MomentsSum(groups=1, length=5)
    for part in range(5):
        sums.add(exact[:, part::5], quantized[:, part::5])
    (found,) = shifted_targets(weight, sums.result(is_centred=True), [1e-9])
    x = quantized[0].double() - quantized[0].double().mean(0)
    y = (exact[0].double() - exact[0].double().mean(0)) @ weight[0].T
    assert torch.allclose(found[0], torch.linalg.lstsq(x, y).solution.T, atol=1e-5)


OPERATIONS = {
    "plain": (nn.Conv2d(4, 6, 3), Role.CONV),
    "strided": (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2)), Role.CONV),
    "dilated groups": (nn.Conv2d(4, 6, 3, dilation=2, groups=2, padding=2), Role.CONV),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), Role.CONV),
    "circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), Role.CONV),
    "same": (nn.Conv2d(4, 6, 4, padding="same"), Role.CONV),
    "transposed": (nn.ConvTranspose2d(4, 6, 3), Role.CONV_TRANSPOSE),
    "transposed, all settings": (
        nn.ConvTranspose2d(4, 6, (3, 4), stride=(2, 3), padding=1, output_padding=(1, 0), groups=2, dilation=2),
        Role.CONV_TRANSPOSE,
    ),
    "linear": (nn.Linear(7, 5), Role.LINEAR),
    "1-D": (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), Role.CONV),
    "1-D circular": (nn.Conv1d(4, 6, 3, padding=2, padding_mode="circular"), Role.CONV),
    "1-D transposed": (
        nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2),
        Role.CONV_TRANSPOSE,
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_weight_times_columns_is_the_operation(name):
    module, role = OPERATIONS[name]
    shape = (2, 4, 7) if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)) else (2, 4, 8, 7)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    op = WeightedOp(module, role)
    (found,) = columns_of(op, [x], 10**6, torch.Generator())
    groups = getattr(module, "groups", 1)
    products = as_rows(op.folded()[0], groups) @ found.transpose(1, 2)  # [groups, rows, positions]
    with torch.no_grad():
        result = module(x)
        wanted = result.flatten(0, -2).T if role is Role.LINEAR else result.transpose(0, 1).flatten(1)
        wanted = wanted - module.bias.unsqueeze(1)
    assert torch.allclose(products.flatten(0, 1), wanted, atol=1e-5)


def test_drawn_columns_are_at_the_same_positions():
    x = torch.randn(3, 2, 9, 9)
    geometry = Geometry(kernel=(3, 3), padding=(1, 1, 1, 1))
    first, second = columns(geometry, [x, 2 * x], 11, torch.Generator().manual_seed(5))
    assert first.shape == (1, 11, 18)
    assert torch.equal(2 * first, second)
    patches = F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)
    assert all((patches == row).all(1).any() for row in first[0])


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e3])
def test_an_input_that_is_constant_but_for_rounding_is_a_silent_one(size: float) -> None:
    """Its centred moments are the rounding of sums in float32, which need not be positive definite."""
    random = torch.Generator().manual_seed(0)
    constant = torch.full((1, 1000, 6), 1.5 * size)
    varied = size * torch.randn(1, 1000, 3, generator=random)
    columns = torch.cat([constant, varied], 2)
    sums = MomentsSum(groups=1, length=9)
    for part in columns.split(77, dim=1):
        sums.add(part, part)
    found = sums.result(is_centred=True)
    assert (
        not found.quantized[0, :6].any() and not found.quantized[0, :, :6].any() and not found.crossed[0, :, :6].any()
    )
    exact = columns[0, :, 6:].double()
    exact = exact - exact.mean(0)
    torch.testing.assert_close(
        found.quantized[0, 6:, 6:], exact.T @ exact, rtol=1e-4, atol=1e-4 * float(exact.square().sum())
    )


def test_a_hessian_that_is_not_positive_definite_is_damped_more() -> None:
    weight = torch.tensor([[[0.4, 0.6, 0.1]]], dtype=torch.float64)
    hessian = torch.tensor([[[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]], dtype=torch.float64)  # eigenvalue -1
    grid = RowGrid(torch.ones(1, 1, dtype=torch.float64), 7)
    found = compensated(weight, hessian, grid)
    assert found.isfinite().all()
    assert (found == found.round()).all()
