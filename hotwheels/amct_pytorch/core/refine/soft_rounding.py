"""Learned rounding: each weight chooses between two neighbouring levels, by gradient descent on the layer's output.

AdaRound (Nagel et al. 2020) on uniform grids and codebooks, started from weights that are on their grid already.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .grid import RowGrid

STEPS = 150
COLUMNS_PER_STEP = 256
_RATE = 0.1
_LOW, _HIGH = -0.1, 1.1  # the ends of the stretched sigmoid, which is clipped to [0, 1]
_LEAST_SHARE, _START_SHARE = 0.02, 0.3  # of the step, where a variable starts
_FREE_SHARE = 0.2  # of the steps, before variables are pulled to 0 or 1
_PULL = 200.0
_STEEP, _ROUND = 20.0, 2.0  # exponent of the pull at its start and at the end


@dataclasses.dataclass(frozen=True)
class OutputSample:
    """What a layer reads and what it is to give, at some positions.

    Attributes:
      columns: [groups, positions, K], float32, of the quantized network.
      outputs: [groups, positions, rows], float32, of the float network, in front of ``activation``.
      activation: What the network does with the output, elementwise; None for nothing.
    """

    columns: Tensor
    outputs: Tensor
    activation: Callable[[Tensor], Tensor] | None = None

    def centred(self, mean_column: Tensor, mean_output: Tensor) -> OutputSample:
        """Returns the sample for a layer whose bias moves the mean of its output to ``mean_output``.

        ``columns`` lose ``mean_column`` [groups, 1, K], and so ``outputs`` their mean [groups, 1, rows], which
        ``shift`` of `error` and `learned` adds again in front of the activation.
        """
        return dataclasses.replace(self, columns=self.columns - mean_column, outputs=self.outputs - mean_output)

    def at(self, positions: Tensor) -> OutputSample:
        """Returns the sample at some of the positions."""
        columns, outputs = (one.index_select(1, positions) for one in (self.columns, self.outputs))
        return dataclasses.replace(self, columns=columns, outputs=outputs)

    def errors(self, weight: Tensor, shift: Tensor) -> Tensor:
        """Returns the mean squared error of every row, [groups, rows], with ``weight`` [groups, rows, K].

        ``shift`` [groups, 1, rows] is added to both outputs.
        """
        found, wanted = self.columns @ weight.transpose(1, 2) + shift, self.outputs + shift
        if self.activation is not None:
            found, wanted = self.activation(found), self.activation(wanted)
        return (found - wanted).square().mean(1)

    def slope(self, weight: Tensor, shift: Tensor) -> Tensor:
        """Returns the gradient of the mean of `errors` with respect to ``weight``, [groups, rows, K].

        Written out, since the steps of `learned` took half as long again with autograd through the weight.
        """
        found = (self.columns @ weight.transpose(1, 2)).add_(shift)
        if self.activation is None:
            arriving = found.sub_(self.outputs).sub_(shift)
        else:
            with torch.enable_grad():
                active = self.activation(found.requires_grad_())
            difference = active.detach() - self.activation(self.outputs + shift)
            (arriving,) = torch.autograd.grad(active, [found], difference)
        return (arriving.transpose(1, 2) @ self.columns).mul_(2.0 / arriving.numel())


def learned(
    start: Tensor, target: Tensor, grid: RowGrid, sample: OutputSample, shift: Tensor, generator: torch.Generator
) -> Tensor:
    """Returns weights on ``grid``: ``start``, or one level from it towards ``target``, for a small output error.

    Args:
      start: [groups, rows, K], on the grid. Weights at the end of a uniform grid keep their level, since that weight
        may determine the grid.
      target: [groups, rows, K], to which side of ``start`` the second level lies.
      grid: The values each row may take.
      sample: What the layer reads and is to give.
      shift: [groups, 1, rows], see `OutputSample.errors`.
      generator: Draws the positions of each step, on the CPU.
    """
    with torch.inference_mode(False), torch.no_grad():
        first, step = start.float(), (_second_level(start, target, grid) - start).float()
        variable = _first_variable((target.float() - first) / torch.where(step != 0, step, torch.inf))
        optimizer = torch.optim.Adam([variable], lr=_RATE, fused=True)
        relative_step = step / sample.errors(first, shift).mean().clamp(min=1e-30)
        for number in range(STEPS):
            sigmoid = torch.sigmoid(variable)
            openness = _stretched(sigmoid)
            slope = sample.at(_drawn(sample, generator)).slope(torch.addcmul(first, openness, step), shift)
            side = openness.mul_(2.0).sub_(1.0).abs()
            slope.mul_(relative_step)
            _add_pull(slope, side, sigmoid, (number / STEPS - _FREE_SHARE) / (1.0 - _FREE_SHARE))
            slope.mul_(side < 1.0)  # a clipped value does not move
            variable.grad = slope.mul_(torch.addcmul(sigmoid, sigmoid, sigmoid, value=-1.0)).mul_(_HIGH - _LOW)
            optimizer.step()
        return torch.where(_stretched(torch.sigmoid(variable)) > 0.5, start + step.double(), start)


def _first_variable(share: Tensor) -> Tensor:
    """Returns the variables to start from, near the first level; ``share`` is the target's place on the step.

    So the descent starts at the rounded weights, and not at weights which rounding makes several times worse.
    """
    openness = _LEAST_SHARE + _START_SHARE * share.clamp(0.0, 1.0)
    return torch.logit((openness - _LOW) / (_HIGH - _LOW))


def _add_pull(slope: Tensor, distance: Tensor, sigmoid: Tensor, progress: float) -> None:
    """Adds the slope of the mean of ``_PULL * (1 - distance^exponent)`` over all weights to ``slope``.

    ``distance`` is ``|2 openness - 1|``, so that mean draws the openness to 0 or 1; ``progress`` is below 0 while it is
    free, 1 at the end.
    """
    if progress <= 0:
        return
    exponent = _ROUND + 0.5 * (_STEEP - _ROUND) * (1.0 + math.cos(progress * math.pi))
    strength = distance.pow(exponent - 1.0).copysign_(sigmoid - 0.5)
    slope.add_(strength, alpha=-2.0 * _PULL * exponent / slope.numel())


def _stretched(sigmoid: Tensor) -> Tensor:
    return (sigmoid * (_HIGH - _LOW)).add_(_LOW).clamp_(0.0, 1.0)


def _drawn(sample: OutputSample, generator: torch.Generator) -> Tensor:
    positions = sample.columns.shape[1]
    drawn = torch.randint(positions, (min(COLUMNS_PER_STEP, positions),), generator=generator)
    return drawn.to(sample.columns.device)


def _second_level(start: Tensor, target: Tensor, grid: RowGrid) -> Tensor:
    """Returns the level next to ``start`` on the side of ``target``, as a real value; ``start`` itself at an end."""
    side = torch.where(target > start, 1, -1)
    scale = grid.scale.unsqueeze(2)
    if grid.codebook is not None:
        index = (grid.indices(start / scale) + side).clamp(0, len(grid.codebook) - 1)
        return grid.codebook[index] * scale
    level = (start / scale).round()
    return torch.where(level.abs() >= grid.largest, start, (level + side).clamp(-grid.largest, grid.largest) * scale)
