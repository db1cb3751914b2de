"""The squared error of many candidate grids at once on the values that a RangeStatistics has seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import native
from .range_statistics import RangeStatistics

Numbers = NDArray[np.float64]

_NEARLY_BEST = 1.1
# Sizes of a step of the computation that stays in the cache: _CHUNK values on some 60 grids, _GRIDS grids on some
# 4000 bins.
_CHUNK = 1 << 10
_GRIDS = 8


def least_error(statistics: RangeStatistics, scale: Numbers, low: Numbers, high: Numbers) -> int:
    """Returns the index of the grid with the least squared error; the first of several.

    The expected error decides; if the statistics still hold the values themselves, the true error on them decides
    between the grids with nearly the least expected error. The arguments are those of ``expected_errors``.
    """
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
    tails = np.concatenate((statistics.smallest(), statistics.largest())).astype(np.float64)
    atoms = np.array(list(statistics.histogram.atoms.items()))
    errors = _bin_errors(*statistics.densities(), scale, low, high)
    errors += _squares(atoms[:, 0], scale, low, high) @ atoms[:, 1]
    return errors + sum_of_squares(tails, scale, low, high)


def sum_of_squares(values: Numbers, scale: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """Returns the sum of ``expected_errors``, but over the [n] float64 ``values`` themselves."""
    total = np.zeros_like(scale)
    for start in range(0, values.size, _CHUNK):
        total += _squares(values[start : start + _CHUNK], scale, low, high).sum(1)
    return total


def _squares(values: Numbers, scale: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """Squared error of each of the [n] values on each of the [m] grids: [m, n]."""
    steps = values / scale[:, None]
    nearest = np.rint(steps)
    np.clip(nearest, low[:, None], high[:, None], out=nearest)
    steps -= nearest
    steps *= scale[:, None]
    steps *= steps
    return steps


def _bin_errors(edges: Numbers, density: Numbers, scale: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """Error of values spread evenly over each bin, exact for bins both narrower and wider than a step.

    With t = x / scale and k = clip(rhe(t), low, high), the error ``(t - k)^2`` has the continuous antiderivative
    ``F(t) = (t - k)^3 / 3 + k / 12``. A bin [a, b] of density d contributes ``scale^3 * d * (F(b / scale) -
    F(a / scale))``; summed over the bins by parts, each edge counts with the drop of density there.
    """
    if not density.size:
        return np.zeros_like(scale)
    drop = -np.diff(density, prepend=0.0, append=0.0)
    counting = np.flatnonzero(drop)
    edges, drop = edges[counting], drop[counting]
    if native.is_there():
        return native.edge_sums(edges, drop, scale, low, high)
    parts = range(0, scale.size, _GRIDS)
    return np.concatenate([_edge_sums(edges, drop, *(x[i : i + _GRIDS] for x in (scale, low, high))) for i in parts])


def _edge_sums(edges: Numbers, drop: Numbers, scale: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """``scale^3 * sum drop * F(edge / scale)`` per grid."""
    steps = edges / scale[:, None]
    nearest = np.rint(steps)
    np.clip(nearest, low[:, None], high[:, None], out=nearest)
    steps -= nearest
    cubes = steps * steps
    cubes *= steps
    sums: Numbers = scale**3 * ((cubes @ drop) / 3.0 + (nearest @ drop) / 12.0)
    return sums
