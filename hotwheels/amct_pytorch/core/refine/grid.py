"""RowGrid: the values that the weights of each row may take."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..params import QuantParams


@dataclasses.dataclass(frozen=True)
class RowGrid:
    """``levels * scale`` for every row; the levels are the integers of [-largest, largest], or a codebook.

    Attributes:
      scale: Real value of one unit, float64 [groups, rows].
      largest: Largest integer of a uniform grid.
      codebook: 16 sorted values of a non-uniform grid, float64; None for a uniform one.
    """

    scale: Tensor
    largest: int = 127
    codebook: Tensor | None = None

    @staticmethod
    def of(params: QuantParams, rows: Tensor) -> RowGrid:
        """Returns the grid ``params`` of the weight ``rows`` [groups, rows, K]."""
        groups, count = rows.shape[:2]
        scale = params.scale.double().expand(groups * count).reshape(groups, count)
        codebook = None if params.codebook is None else params.codebook.double()
        return RowGrid(scale, params.spec.qmax, codebook)

    def levels(self, weight: Tensor) -> Tensor:
        """Returns the nearest level of ``weight`` [groups, rows, ...], float64: a codebook value, not its index."""
        units = weight / self.scale.reshape(*self.scale.shape, *[1] * (weight.dim() - 2))
        if self.codebook is None:
            return units.round().clamp(-self.largest, self.largest)
        return self.codebook[self.indices(units)]

    def indices(self, units: Tensor) -> Tensor:
        """Returns the index of the codebook value nearest to each of ``units``."""
        assert self.codebook is not None
        return torch.bucketize(units.contiguous(), (self.codebook[1:] + self.codebook[:-1]) / 2)

    def nearest(self, weight: Tensor) -> Tensor:
        """Returns the nearest real values of ``weight`` [groups, rows, ...], float64."""
        return self.levels(weight) * self.scale.reshape(*self.scale.shape, *[1] * (weight.dim() - 2))
