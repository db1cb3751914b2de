"""Grids that make a layer's output error small: scales of uniform grids, and codebooks with their scales."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from .compensation import compensated, descended, output_error
from .grid import RowGrid

_RATIOS = tuple(0.4 + 0.02 * step for step in range(31))  # of the scale that covers the largest weight
_ROUNDS_OF_CLUSTERING = 30
_ROWS_AT_ONCE = 32  # of one-hot members in memory, of all groups together; at least one row of each group
_INT8_MAX = 127


def scale_by_output(target: Tensor, hessian: Tensor, covering: Tensor, largest: int, has_one_scale: bool) -> Tensor:
    """Returns for every row the scale whose nearest rounding gives the least output error, [groups, rows].

    Args:
      target: [groups, rows, K].
      hessian: [groups, K, K].
      covering: Scales that cover the largest weights, [groups, rows].
      largest: Largest integer of the grid.
      has_one_scale: Whether all rows share a scale.
    """
    errors = []
    for ratio in _RATIOS:
        error = output_error(RowGrid(covering * ratio, largest).nearest(target), target, hessian)
        errors.append(error.sum().expand(error.shape) if has_one_scale else error)
    best = torch.stack(errors).argmin(0)
    return covering * torch.tensor(_RATIOS, dtype=target.dtype, device=target.device)[best]


def fitted_codebook(target: Tensor, hessian: Tensor, grid: RowGrid, has_one_scale: bool) -> tuple[Tensor, RowGrid]:
    """Returns weights on a refitted codebook grid, and the grid: clustering, compensated rounding, refit, a sweep.

    Args:
      target: [groups, rows, K], float64.
      hessian: [groups, K, K].
      grid: The codebook to start from; its scales are kept as the starting scales.
      has_one_scale: Whether all rows share a scale.
    """
    grid = _clustered(target, hessian, grid)
    weight = compensated(target, hessian, grid)
    grid = _refitted_values(target, hessian, grid, weight)
    grid = _refitted_scales(target, hessian, grid, weight, has_one_scale)
    grid = _as_int8(grid)
    weight = compensated(target, hessian, grid)
    return descended(target, weight, hessian, grid), grid


def _clustered(target: Tensor, hessian: Tensor, grid: RowGrid) -> RowGrid:
    """Moves codebook values to the means of their weights, each weighted by its influence on the output."""
    assert grid.codebook is not None
    scale = grid.scale.unsqueeze(2)
    units = (target / scale).flatten()
    diagonal = hessian.diagonal(dim1=1, dim2=2).unsqueeze(1)
    importance = (scale.square() * (diagonal + 1e-3 * diagonal.mean())).expand_as(target).flatten()
    values = grid.codebook
    for _ in range(_ROUNDS_OF_CLUSTERING):
        index = torch.bucketize(units, (values[1:] + values[:-1]) / 2)
        mass = torch.zeros_like(values).index_add_(0, index, importance)
        moment = torch.zeros_like(values).index_add_(0, index, importance * units)
        values = torch.where(mass > 0, moment / mass.clamp(min=1e-300), values).sort().values
    return _as_int8(dataclasses.replace(grid, codebook=values))


def _refitted_values(target: Tensor, hessian: Tensor, grid: RowGrid, weight: Tensor) -> RowGrid:
    """Returns the grid with the 16 values that minimize the output error while each weight keeps its index."""
    assert grid.codebook is not None
    units = weight / grid.scale.unsqueeze(2)
    matrix = target.new_zeros(len(grid.codebook), len(grid.codebook))
    right = target.new_zeros(len(grid.codebook))
    single = hessian.float()
    for rows in torch.split(torch.arange(target.shape[1]), max(_ROWS_AT_ONCE // target.shape[0], 1)):
        index = grid.indices(units[:, rows])
        members = torch.nn.functional.one_hot(index, len(grid.codebook)).float()
        product = single.unsqueeze(1) @ members  # [groups, rows, K, 16], most of the time
        scale = grid.scale[:, rows, None, None]
        matrix += (scale.square() * (members.transpose(2, 3) @ product)).sum((0, 1))
        right += (scale * (target[:, rows].float().unsqueeze(2) @ product)).sum((0, 1)).squeeze(0)
    mean = float(matrix.diagonal().mean())
    if mean <= 0:  # the layer's inputs are all zero, so every value gives the same output
        return grid
    matrix.diagonal().add_(1e-6 * mean)
    right += 1e-6 * mean * grid.codebook
    values = torch.linalg.solve(matrix, right).sort().values
    return dataclasses.replace(grid, codebook=values)


def _refitted_scales(target: Tensor, hessian: Tensor, grid: RowGrid, weight: Tensor, has_one_scale: bool) -> RowGrid:
    """Returns the grid with the scales that minimize the output error while each weight keeps its level."""
    levels = grid.levels(weight)
    product = levels @ hessian
    upper, lower = (product * target).sum(2), (product * levels).sum(2)
    if has_one_scale:
        upper, lower = upper.sum().expand_as(upper), lower.sum().expand_as(lower)
    is_usable = (lower > 0) & (upper > 0)
    ratio = torch.where(is_usable, upper / lower.clamp(min=1e-300), grid.scale)
    return dataclasses.replace(grid, scale=ratio)


def _as_int8(grid: RowGrid) -> RowGrid:
    """Returns a grid of nearly the same values, whose codebook holds int8 integers with 127 as largest magnitude."""
    assert grid.codebook is not None
    unit = (grid.codebook.abs().max() / _INT8_MAX).clamp(min=1e-300)
    return RowGrid(grid.scale * unit, grid.largest, (grid.codebook / unit).round())
