"""The squared error that a grid makes on what a RangeStatistics has seen: for many candidate grids at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .histogram import GridHistogram
from .statistics import RangeStatistics

Numbers = NDArray[np.float64]


def expected_errors(statistics: RangeStatistics, scale: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """Returns ``sum (x - scale * clip(rhe(x / scale), low, high))^2`` over all values seen, per candidate.

    Args:
      statistics: Values in the tails count as they are; those of a bin as spread evenly over it.
      scale: [m] real value of one step of each candidate, > 0.
      low: [m] lowest integer of each grid, on which 0 stands for 0.0.
      high: [m] highest integer.
    """
    tails = np.concatenate((statistics.smallest(), statistics.largest())).astype(np.float64)
    errors = _bin_errors(statistics.histogram, scale, low, high)
    return errors + sum_of_squares(tails, scale, low, high)


def sum_of_squares(values: Numbers, scale: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """The same for the [n] float64 ``values`` themselves."""
    steps = values / scale[:, None]
    steps -= np.clip(np.rint(steps), low[:, None], high[:, None])
    errors: Numbers = scale**2 * np.einsum("ij,ij->i", steps, steps)
    return errors


def _bin_errors(histogram: GridHistogram, scale: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """Error of values spread evenly over each bin, exact for bins both narrower and wider than a step.

    With t = x / scale and k = clip(rhe(t), low, high), the error ``(t - k)^2`` has the continuous antiderivative
    ``F(t) = (t - k)^3 / 3 + k / 12``. A bin [a, b] of density d contributes ``scale^3 * d * (F(b / scale) -
    F(a / scale))``; summed over the bins by parts, each edge counts with the drop of density there.
    """
    edges, density = histogram.densities()
    if not density.size:
        return np.zeros_like(scale)
    drop = -np.diff(density, prepend=0.0, append=0.0)
    steps = edges / scale[:, None]
    nearest = np.rint(steps)
    np.clip(nearest, low[:, None], high[:, None], out=nearest)
    steps -= nearest
    cubes = steps * steps
    cubes *= steps
    errors: Numbers = scale**3 * ((cubes @ drop) / 3.0 + (nearest @ drop) / 12.0)
    return errors
