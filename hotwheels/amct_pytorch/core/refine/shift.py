"""ShiftSum: the mean error of every output channel, as far as the pictures agree on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_FEWEST_CHANNELS = 3  # below, no shrinking is better than the means for every shift
_NO_SCATTER = 1e-12  # of the squared mean: less is rounding of the sums


class ShiftSum:
    """Sums the errors of a layer's output over batches, in constant memory."""

    def __init__(self, channels: int) -> None:
        """Makes sums of no errors."""
        self._count = torch.zeros((), dtype=torch.float64)  # of pictures
        self._sums = torch.zeros(2, channels, dtype=torch.float64)  # of the pictures' means, and of their squares

    def add(self, errors: Tensor, axis: int) -> None:
        """Takes the errors of one batch, whose channels lie along ``axis`` and whose pictures lie along axis 0.

        A batch whose axis 0 is that of the channels is one picture.
        """
        by_channel = errors.detach().double().movedim(axis, -1)
        by_picture = by_channel.reshape(1 if axis == 0 else errors.shape[0], -1, errors.shape[axis])
        means = by_picture.mean(1).cpu()
        self._count += len(means)
        self._sums += torch.stack((means.sum(0), means.square().sum(0)))

    def merge(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replaces each sum by ``total`` of it, the sum over several processes."""
        self._count, self._sums = total(self._count), total(self._sums)

    def shift(self) -> Tensor:
        """Returns the mean error of every channel, float64 [channels], shrunk by what may be chance.

        With the mean m of each of C channels, and its standard error s from the scatter of the pictures, the factor is
        ``max(0, 1 - (C - 2) / sum(m^2 / s^2))`` (James and Stein 1961): the means of few pictures that scatter widely
        would shift the outputs for others. A channel that does not scatter, and a layer of one picture or of fewer than
        three channels that do, keep their means.
        """
        mean: Tensor = self._sums[0] / self._count.clamp(min=1.0)
        square = self._sums[1] / self._count.clamp(min=1.0)
        chance = (square - mean.square()).clamp(min=0.0) / (self._count - 1.0).clamp(min=1.0)
        scatters = chance > _NO_SCATTER * mean.square()
        channels = int(scatters.sum())
        if channels < _FEWEST_CHANNELS:
            return mean
        ratio = (mean.square()[scatters] / chance[scatters]).sum()
        factor = (1.0 - (channels - 2) / ratio.clamp(min=1e-300)).clamp(min=0.0)
        return torch.where(scatters, factor * mean, mean)
