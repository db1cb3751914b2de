"""Moments: second moments of the columns a layer reads, in the float network and in the quantized network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

# Of the sum of squares: a smaller sum of squared deviations may be rounding, as sums within a batch are float32.
_CONSTANT = 32 * torch.finfo(torch.float32).eps


@dataclasses.dataclass(frozen=True)
class Moments:
    """Centred or plain second moments of columns, float64, summed over the columns.

    Attributes:
      quantized: ``sum q q^T``, [groups, K, K], of the columns of the quantized network.
      crossed: ``sum f q^T``, [groups, K, K], the columns of the float network against them.
    """

    quantized: Tensor
    crossed: Tensor


class MomentsSum:
    """Adds up the moments of one layer over batches, in constant memory.

    Attributes:
      count: Number of columns.
    """

    def __init__(self, groups: int, length: int, device: torch.device | None = None) -> None:
        """Makes sums of no columns [groups, 0, length]."""
        shapes = ((groups, length, length), (groups, length, length), (groups, length), (groups, length))
        self.count = torch.zeros((), dtype=torch.float64)
        self._sums = [torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes]

    def add(self, float_columns: Tensor, quantized_columns: Tensor) -> None:
        """Takes the columns [groups, positions, K] of one batch, at the same positions of both networks."""
        f, q = float_columns, quantized_columns
        parts = [q.transpose(1, 2) @ q, f.transpose(1, 2) @ q, f.sum(1), q.sum(1)]
        # float32 within a batch, float64 over batches
        self._sums = [a + b.double() for a, b in zip(self._sums, parts, strict=True)]
        self.count = self.count + f.shape[1]

    def merge(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replaces each sum by ``total`` of it, the sum over several processes."""
        self.count = total(self.count)
        self._sums = [total(one) for one in self._sums]

    def result(self, is_centred: bool) -> Moments:
        """Returns the moments; centred ones are for a layer whose bias takes up the means.

        The centred moments of an input that was constant are exactly 0.
        """
        quantized, crossed, f, q = self._sums
        if not is_centred:
            return Moments(quantized, crossed)
        centred = quantized - q.unsqueeze(2) * q.unsqueeze(1) / self.count
        squares, deviations = (one.diagonal(dim1=1, dim2=2) for one in (quantized, centred))
        varies = (deviations > _CONSTANT * squares).unsqueeze(1)
        crossed = crossed - f.unsqueeze(2) * q.unsqueeze(1) / self.count
        return Moments(centred * varies * varies.transpose(1, 2), crossed * varies)


def shifted_targets(weight: Tensor, moments: Moments, dampings: Sequence[float]) -> Iterator[Tensor]:
    """Yields weights [groups, rows, K] whose product with the quantized columns is nearest to the float product.

    ``W* = (W C + l W) (H + l)^-1`` with H = ``moments.quantized``, C = ``moments.crossed`` and l = each of ``dampings``
    times the mean of H's diagonal. So the weight also corrects errors that quantized layers in front made in its input.
    """
    weight = weight.double()
    power = moments.quantized.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    product = weight @ moments.crossed
    for damping in dampings:
        ridge = damping * power
        system = moments.quantized + torch.diag_embed(ridge.unsqueeze(1).expand(-1, weight.shape[2]))
        yield _solved(system, product + ridge.reshape(-1, 1, 1) * weight)


def _solved(system: Tensor, right: Tensor) -> Tensor:
    """Returns ``right system^-1``; ``system`` [groups, K, K] is positive definite but for rounding."""
    factor, failed = torch.linalg.cholesky_ex(system)  # half the time of a solver for any matrix
    if bool(failed.any()):
        solution: Tensor = torch.linalg.solve(system, right.transpose(1, 2))
    else:
        solution = torch.cholesky_solve(right.transpose(1, 2), factor)
    return solution.transpose(1, 2)
