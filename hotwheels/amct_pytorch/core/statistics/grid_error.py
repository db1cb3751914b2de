"""The squared error of many candidate grids at once on the values that a RangeStatistics has seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import compiled
from .range_statistics import RangeStatistics

Numbers = NDArray[np.float64]

_NEARLY_BEST = 1.1
_CHUNK = 1 << 10  # values whose errors on some 60 grids stay in the cache
_LANES = 16  # sums that a vector unit takes side by side


def least_error(statistics: RangeStatistics, scale: Numbers, low: Numbers, high: Numbers) -> int:
    """Returns the index of the grid with the least squared error; the first of several.

    The expected error decides; if the statistics still hold the values themselves, the true error on them decides
    between the grids with nearly the least expected error. The arguments are those of ``expected_errors``.
    """
    if compiled.finds_least():
        return _compiled(statistics, scale, low, high)[0]
    expected = expected_errors(statistics, scale, low, high)
    values = statistics.values()
    if values is None:
        return int(np.argmin(expected))
    # Below 0 the least is what rounding left of an error of 0, and shows how large rounding is.
    near = np.flatnonzero(expected <= _NEARLY_BEST * abs(expected.min()))
    values = values[values != 0].astype(np.float64)
    return int(near[np.argmin(sum_of_squares(values, scale[near], low[near], high[near]))])


def expected_errors(statistics: RangeStatistics, scale: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """Returns ``sum (x - scale * clip(rhe(x / scale), low, high))^2`` over all values seen, per candidate.

    Args:
      statistics: Values in the tails count as they are; the values of a bin count as spread evenly over it.
      scale: [m] real value of one step of each candidate, > 0.
      low: [m] lowest integer of each grid, without its offset: the integer 0 is the real value 0.0.
      high: [m] highest integer.
    """
    if compiled.finds_least():
        return _compiled(statistics, scale, low, high)[1]
    tails = np.concatenate((statistics.smallest(), statistics.largest())).astype(np.float64)
    errors = _bin_errors(*statistics.densities(), scale, low, high)
    for atom, weight in statistics.histogram.atoms.items():
        errors += sum_of_squares(np.array([atom]), scale, low, high) * weight
    return errors + sum_of_squares(tails, scale, low, high)


def _compiled(statistics: RangeStatistics, *grids: Numbers) -> tuple[int, Numbers]:
    """Returns the index of the best grid, and the expected errors."""
    scale, low, high = grids
    seen = statistics.histogram, statistics.tails, statistics.values()
    return compiled.least_error(*seen, (scale, low, high), _NEARLY_BEST)


def sum_of_squares(values: Numbers, scale: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """Returns the sum of ``expected_errors``, but over the [n] float64 ``values`` themselves."""
    inverse, total = 1.0 / scale, np.zeros_like(scale)
    for start in range(0, values.size, _CHUNK):
        steps = values[start : start + _CHUNK] * inverse[:, None]
        distance = steps - _nearest(steps, low, high)
        total += _sum(distance * distance)
    return total * (scale * scale)


def _nearest(steps: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """The integers of the [m] grids which are nearest to ``steps`` [m, n]."""
    return np.clip(np.rint(steps), low[:, None], high[:, None])


def _sum(terms: Numbers) -> Numbers:
    """Returns the sums of the rows of ``terms`` [m, n], taken in the order of search_kernels.c."""
    grids, size = terms.shape
    padded = np.zeros((grids, -(-size // _LANES) * _LANES))
    padded[:, :size] = terms
    side_by_side = np.add.reduce(padded.reshape(grids, -1, _LANES), axis=1)
    return np.add.accumulate(side_by_side, axis=1)[:, -1]


def _bin_errors(edges: Numbers, density: Numbers, scale: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """Error of values spread evenly over each bin, exact for bins both narrower and wider than a step.

    With t = x / scale and k = clip(rhe(t), low, high), the error ``(t - k)^2`` has the continuous antiderivative
    ``F(t) = (t - k)^3 / 3 + k / 12``. A bin [a, b] of density d contributes ``scale^3 * d * (F(b / scale) -
    F(a / scale))``; summed over the bins by parts, each edge counts with the drop of density there.
    """
    cubes, nearests = np.zeros_like(scale), np.zeros_like(scale)
    if not density.size:
        return cubes
    drop = -np.diff(density, prepend=0.0, append=0.0)
    counting = np.flatnonzero(drop)
    edges, drop, inverse = edges[counting], drop[counting], 1.0 / scale
    for start in range(0, edges.size, _CHUNK):
        part, weight = edges[start : start + _CHUNK], drop[start : start + _CHUNK]
        steps = part * inverse[:, None]
        nearest = _nearest(steps, low, high)
        distance = steps - nearest
        cubes += _sum(distance * distance * distance * weight)
        nearests += _sum(nearest * weight)
    errors: Numbers = scale * scale * scale * (cubes / 3.0 + nearests / 12.0)
    return errors
