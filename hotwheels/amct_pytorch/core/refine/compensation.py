"""Compensated rounding: the weights that are not yet rounded are changed to cancel the rounding error of each weight.

GPTQ (Frantar et al. 2022), a closed form of optimal brain quantization, for uniform grids and for codebooks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .grid import RowGrid

DAMPING = 0.1
_BLOCK = 64


def compensated(
    target: Tensor, hessian: Tensor, grid: RowGrid, pinned: Tensor | None = None, damping: float = DAMPING
) -> Tensor:
    """Returns ``target`` rounded to ``grid`` such that ``(w - target) hessian (w - target)^T`` is small.

    The columns are rounded in the order of the diagonal, the largest first. The weight of an input that was always 0
    (a zero on the diagonal) is rounded to nearest and not dropped: the input may be nonzero on other data.

    Args:
      target: [groups, rows, K], float64.
      hessian: [groups, K, K], float64, positive semidefinite.
      grid: The values each row may take.
      pinned: bool [groups, rows, K], weights that are rounded to nearest without compensation. So the largest weight of
        a row stays the end of the row's grid.
      damping: Added to the diagonal, in multiples of its mean.

    Returns:
      Weights on the grid, float64, of the shape of ``target``.
    """
    order = hessian.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True)
    weight = _permuted(target, order).clone()
    fixed = None if pinned is None else _permuted(pinned, order)
    start = weight.clone()
    upper = _inverse_factor(hessian, order, damping)
    result = torch.empty_like(weight)
    for first in range(0, weight.shape[2], _BLOCK):
        last = min(first + _BLOCK, weight.shape[2])
        errors = weight.new_empty(*weight.shape[:2], last - first)
        for column in range(first, last):
            value = weight[:, :, column]
            rounded = grid.nearest(value.unsqueeze(2)).squeeze(2)
            if fixed is not None:
                kept = grid.nearest(start[:, :, column : column + 1]).squeeze(2)
                rounded = torch.where(fixed[:, :, column], kept, rounded)
            error = (value - rounded) / upper[:, column, column].unsqueeze(1)
            weight[:, :, column:last] -= error.unsqueeze(2) * upper[:, column : column + 1, column:last]
            errors[:, :, column - first] = error
            result[:, :, column] = rounded
        weight[:, :, last:] -= errors @ upper[:, first:last, last:]
    return _permuted(result, order.argsort(dim=1))


def descended(target: Tensor, start: Tensor, hessian: Tensor, grid: RowGrid, pinned: Tensor | None = None) -> Tensor:
    """Returns ``start`` after one sweep of coordinate descent on ``(w - target) hessian (w - target)^T``."""
    weight = start.clone()
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    slope = (weight - target) @ hessian
    for column in diagonal.mean(0).argsort(descending=True).tolist():
        curvature = diagonal[:, column : column + 1]
        is_active = curvature > 0
        best = weight[:, :, column] - torch.where(is_active, slope[:, :, column] / curvature.clamp(min=1e-300), 0.0)
        value = torch.where(is_active, grid.nearest(best.unsqueeze(2)).squeeze(2), weight[:, :, column])
        if pinned is not None:
            value = torch.where(pinned[:, :, column], weight[:, :, column], value)
        change = value - weight[:, :, column]
        weight[:, :, column] = value
        slope += change.unsqueeze(2) * hessian[:, column : column + 1, :]
    return weight


def output_error(weight: Tensor, target: Tensor, hessian: Tensor) -> Tensor:
    """Returns ``(w - target) hessian (w - target)^T`` of every row, [groups, rows]."""
    difference = weight - target
    return ((difference @ hessian) * difference).sum(2)


def _permuted(values: Tensor, order: Tensor) -> Tensor:
    return values.gather(2, order.unsqueeze(1).expand(-1, values.shape[1], -1))


def _inverse_factor(hessian: Tensor, order: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped and permuted hessian.

    A hessian that is not positive definite, because its sums are rounded, is damped ten times as much, and so on.
    """
    rows = hessian.gather(1, order.unsqueeze(2).expand_as(hessian))
    permuted = rows.gather(2, order.unsqueeze(1).expand_as(hessian))
    ridge = (damping * permuted.diagonal(dim1=1, dim2=2).mean(1)).clamp(min=1e-12)
    factor, failed = _damped_factor(permuted, ridge)
    while failed.any() and ridge.isfinite().all():
        ridge = torch.where(failed == 0, ridge, 10 * ridge)
        factor, failed = _damped_factor(permuted, ridge)
    upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    return upper


def _damped_factor(matrix: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the Cholesky factors of ``matrix`` plus ``ridge`` on the diagonal, and 0 for each that exists."""
    damping = torch.diag_embed(ridge.unsqueeze(1).expand(matrix.shape[:2]))
    factor, failed = torch.linalg.cholesky_ex(matrix + damping)
    return factor, failed
