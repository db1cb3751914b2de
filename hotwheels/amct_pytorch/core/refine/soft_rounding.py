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

STEPS = 100
COLUMNS_PER_STEP = 256
_REVIEW = 5  # steps between two looks for weights that are decided
_RATE, _BETAS, _EPS = 0.1, (0.9, 0.999), 1e-8  # of Adam
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

    def window(self, generator: torch.Generator) -> OutputSample:
        """Returns ``COLUMNS_PER_STEP`` neighbouring positions from a drawn one on; views, since copies take longer."""
        most = self.columns.shape[1]
        count = min(COLUMNS_PER_STEP, most)
        first = int(torch.randint(most - count + 1, (), generator=generator))
        columns, outputs = (one.narrow(1, first, count) for one in (self.columns, self.outputs))
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
      generator: Draws the order of the positions, and the place of each step in that order, on the CPU.
    """
    with torch.inference_mode(False), torch.no_grad():
        first, step = start.float(), (_second_level(start, target, grid) - start).float()
        variable = _first_variable((target.float() - first) / torch.where(step != 0, step, torch.inf))
        descent = _Descent(first, step, variable, sample.errors(first, shift).mean().clamp(min=1e-30))
        sample = sample.at(torch.randperm(sample.columns.shape[1], generator=generator).to(sample.columns.device))
        for number in range(STEPS):
            if number % _REVIEW == 0:
                descent.drop_decided()
            if not descent.is_over:
                slope = sample.window(generator).slope(descent.weight(), shift)
                descent.move(slope, (number / STEPS - _FREE_SHARE) / (1.0 - _FREE_SHARE))
        return torch.where(descent.is_second(), start + step.double(), start)


class _Descent:
    """The choice of each weight between two levels, by Adam on the variables of those that are not decided.

    An openness that was clipped to 0 or 1 has no slope, and what is left of Adam's mean moves it further out: it stays.
    Most are decided after a tenth of the steps, so the elementwise work is done on the others only.
    """

    def __init__(self, first: Tensor, step: Tensor, variable: Tensor, error: Tensor) -> None:
        """``error``, the mean squared output error of the ``first`` levels, is the unit of the slopes."""
        self._weight = first.clone()
        self._second = torch.zeros_like(first, dtype=torch.bool)
        self._places = step.flatten().nonzero().squeeze(1)
        self._first, self._step, self._variable = (one.flatten()[self._places] for one in (first, step, variable))
        self._unit = 1.0 / error
        self._mean, self._square = torch.zeros_like(self._variable), torch.zeros_like(self._variable)
        self._number = 0
        self._sigmoid = torch.sigmoid(self._variable)

    @property
    def is_over(self) -> bool:
        """Whether all weights are decided."""
        return not len(self._places)

    def drop_decided(self) -> None:
        """Keeps the levels of the weights whose openness is 0 or 1, and forgets their variables."""
        openness = _stretched(self._sigmoid)
        self._put(self._weight, torch.addcmul(self._first, openness, self._step))
        self._put(self._second, openness > 0.5)
        rest = ((openness > 0.0) & (openness < 1.0)).nonzero().squeeze(1)
        names = ("_places", "_first", "_step", "_variable", "_mean", "_square", "_sigmoid")
        for name in names:
            setattr(self, name, getattr(self, name)[rest])

    def weight(self) -> Tensor:
        """Returns the present weight, [groups, rows, K], between the levels where it is not decided."""
        self._put(self._weight, torch.addcmul(self._first, _stretched(self._sigmoid), self._step))
        return self._weight

    def move(self, slope: Tensor, progress: float) -> None:
        """Takes a step of Adam; ``slope`` is the gradient of the mean squared output error by the weight."""
        arriving = slope.flatten()[self._places].mul_(self._step).mul_(self._unit)
        side = _stretched(self._sigmoid).mul_(2.0).sub_(1.0).abs_()
        _add_pull(arriving, side, self._sigmoid, progress, slope.numel())
        arriving.mul_(side < 1.0)  # a clipped value does not move
        arriving.mul_(torch.addcmul(self._sigmoid, self._sigmoid, self._sigmoid, value=-1.0)).mul_(_HIGH - _LOW)
        self._number += 1
        self._mean.lerp_(arriving, 1.0 - _BETAS[0])
        self._square.mul_(_BETAS[1]).addcmul_(arriving, arriving, value=1.0 - _BETAS[1])
        corrections = [1.0 - beta**self._number for beta in _BETAS]
        size = self._square.sqrt().div_(math.sqrt(corrections[1])).add_(_EPS)
        self._variable.addcdiv_(self._mean, size, value=-_RATE / corrections[0])
        self._sigmoid = torch.sigmoid(self._variable)

    def is_second(self) -> Tensor:
        """Returns which weights take their second level, bool [groups, rows, K]."""
        self._put(self._second, _stretched(self._sigmoid) > 0.5)
        return self._second

    def _put(self, whole: Tensor, values: Tensor) -> None:
        whole.view(-1).index_copy_(0, self._places, values)


def _first_variable(share: Tensor) -> Tensor:
    """Returns the variables to start from, near the first level; ``share`` is the target's place on the step.

    So the descent starts at the rounded weights, and not at weights which rounding makes several times worse.
    """
    openness = _LEAST_SHARE + _START_SHARE * share.clamp(0.0, 1.0)
    return torch.logit((openness - _LOW) / (_HIGH - _LOW))


def _add_pull(slope: Tensor, distance: Tensor, sigmoid: Tensor, progress: float, count: int) -> None:
    """Adds the slope of the mean of ``_PULL * (1 - distance^exponent)`` over ``count`` weights to ``slope``.

    ``distance`` is ``|2 openness - 1|``, so that mean draws the openness to 0 or 1; ``progress`` is below 0 while it is
    free, 1 at the end.
    """
    if progress <= 0:
        return
    exponent = _ROUND + 0.5 * (_STEEP - _ROUND) * (1.0 + math.cos(progress * math.pi))
    strength = distance.pow(exponent - 1.0).copysign_(sigmoid - 0.5)
    slope.add_(strength, alpha=-2.0 * _PULL * exponent / count)


def _stretched(sigmoid: Tensor) -> Tensor:
    return (sigmoid * (_HIGH - _LOW)).add_(_LOW).clamp_(0.0, 1.0)


def _second_level(start: Tensor, target: Tensor, grid: RowGrid) -> Tensor:
    """Returns the level next to ``start`` on the side of ``target``, as a real value; ``start`` itself at an end."""
    side = torch.where(target > start, 1, -1)
    scale = grid.scale.unsqueeze(2)
    if grid.codebook is not None:
        index = (grid.indices(start / scale) + side).clamp(0, len(grid.codebook) - 1)
        return grid.codebook[index] * scale
    level = (start / scale).round()
    return torch.where(level.abs() >= grid.largest, start, (level + side).clamp(-grid.largest, grid.largest) * scale)
