"""Smallest and largest value of the rows of a matrix."""

from __future__ import annotations

from torch import Tensor

from .. import native


def row_extremes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (smallest, largest) value of each row of ``rows`` [n, m], each [n]; NaN if the row holds NaN."""
    if rows.numel() and native.handles(rows):
        return native.row_extremes(rows)
    return rows.amin(dim=1), rows.amax(dim=1)  # aminmax along an axis is not vectorized in torch 2.13
