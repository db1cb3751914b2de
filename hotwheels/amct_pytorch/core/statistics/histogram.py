"""GridHistogram: counts on a grid whose step is a power of two, so that any two histograms add up exactly."""

from __future__ import annotations

import copy
import math

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Counts = NDArray[np.float64]

BINS = 8192
# |value| / width stays below 2^22, where float32 still has distinct values for neighbouring bins.
LARGEST_INDEX_BITS = 22
MOST_ATOMS = 5
NARROWEST_BIN = 1e-6  # share of the bin width that a bin keeps at least when it is cut at a bound
SMALLEST_EXPONENT = -120  # 2^120 is still a float32: the factor which turns values into indices


class GridHistogram:
    """Weighted counts of values in ``bins`` bins ``[i * width, (i + 1) * width)``, ``width = 2^exponent``.

    Bins merge in pairs, aligned to even indices, whenever the range outgrows them; so every coarser grid is nested in
    the finer one and no count is ever split. Some values are counted apart, as atoms: zeros, of which a ReLU makes half
    a tensor, and values at which a ReLU6 or the like saturates. Their quantization error is known exactly, while the
    error of a bin is an average over the bin.

    NumPy, not torch: on the few 100 000 values per tensor, its bincount is five times as fast.

    Attributes:
      counts: [bins] weights, without the atoms.
      atoms: Weight of each watched value; 0.0 is always watched.
      first: Index i of the first bin.
      exponent: log2 of the bin width; None while the histogram is empty.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.counts: Counts = np.zeros(bins)
        self.atoms = {0.0: 0.0}
        self.first = 0
        self.exponent: int | None = None

    @property
    def width(self) -> float:
        """Width of a bin; 0 while the histogram is empty."""
        return 0.0 if self.exponent is None else 2.0**self.exponent

    def copy(self) -> GridHistogram:
        """Returns an independent copy."""
        other = copy.copy(self)
        other.counts, other.atoms = self.counts.copy(), dict(self.atoms)
        return other

    def watch(self, value: float) -> None:
        """Counts ``value`` apart from now on, unless too many values are watched."""
        if len(self.atoms) < MOST_ATOMS:
            self.atoms.setdefault(value, 0.0)

    def add(self, values: Values, weight: float = 1.0) -> None:
        """Counts each of the finite ``values`` (1-D) with ``weight``."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if low == high and low in self.atoms:  # atoms need no bin, so the bin width is not changed for them
            self.atoms[low] += weight * values.size
            return
        self._reserve(low, high)
        assert self.exponent is not None
        self.counts += weight * self._counted(values, 2.0**-self.exponent)
        for atom in self.atoms:
            if low <= atom <= high:
                found = weight * np.count_nonzero(values == np.float32(atom))
                self.counts[self._index(atom) - self.first] -= found
                self.atoms[atom] += found

    def _counted(self, values: Values, factor: float) -> NDArray[np.int64]:
        steps = values * np.float32(factor)
        indices = np.floor(steps, out=steps).astype(np.int32)
        indices -= self.first
        return np.bincount(indices, minlength=self.counts.size)

    def merge(self, other: GridHistogram) -> None:
        """Adds the counts of ``other``, which does not change."""
        for atom, weight in other.atoms.items():
            self.atoms[atom] = self.atoms.get(atom, 0.0) + weight
        if other.exponent is None:
            return
        self._reserve(*other._occupied(), exponent=other.exponent)
        assert self.exponent is not None
        used = np.flatnonzero(other.counts)
        indices = ((other.first + used) >> (self.exponent - other.exponent)) - self.first
        self.counts += np.bincount(indices, weights=other.counts[used], minlength=self.counts.size)

    def densities(self, lowest: float = -math.inf, highest: float = math.inf) -> tuple[Counts, Counts]:
        """Returns (edges, density): [m + 1] bin edges of the occupied part and [m] weight per unit of value.

        The values are known to lie in [lowest, highest], so bins are cut there: the part of a bin outside would count
        as clipped.
        """
        used = np.flatnonzero(self.counts)
        if not used.size:
            return np.zeros(1), np.zeros(0)
        first, last = int(used[0]), int(used[-1]) + 1
        edges = np.arange(self.first + first, self.first + last + 1, dtype=np.float64) * self.width
        margin = self.width * NARROWEST_BIN
        edges = np.clip(edges, lowest - margin, highest + margin)
        widths = np.maximum(np.diff(edges), margin)
        return edges, np.maximum(self.counts[first:last], 0.0) / widths

    def kth_largest_positive(self, k: float) -> float:
        """Returns the k-th largest value (k counts weight, from 1), interpolated in its bin; 0 if that is below 0."""
        counts, first = self._with_atoms()
        return self._walk(counts[max(0, -first) :][::-1], k, (first + counts.size) * self.width, -self.width)

    def kth_smallest_negative(self, k: float) -> float:
        """Returns the k-th smallest value, interpolated in its bin; 0 if that is above 0."""
        counts, first = self._with_atoms()
        return self._walk(counts[: max(0, -first)], k, first * self.width, self.width)

    def _with_atoms(self) -> tuple[Counts, int]:
        """Returns counts that include the atoms except 0, and the index of the first bin."""
        whole = self.copy()
        whole.atoms = {}
        for atom, weight in self.atoms.items():
            if atom and weight:
                whole.add(np.array([atom], dtype=np.float32), weight)
        return whole.counts, whole.first

    def _walk(self, counts: Counts, k: float, edge: float, step: float) -> float:
        """The k-th value from ``edge`` on, over ``counts`` in the direction of ``step``."""
        total = np.cumsum(counts)
        position = k - 0.5  # the middle of the k-th unit of weight
        bin_ = int(np.searchsorted(total, position))
        if bin_ == counts.size:
            return 0.0
        before = float(total[bin_ - 1]) if bin_ else 0.0
        share = (position - before) / float(counts[bin_])
        return edge + step * (bin_ + min(max(share, 0.0), 1.0))

    def _occupied(self) -> tuple[float, float]:
        """Returns the lower edges of the first and the last bin that hold a count."""
        used = np.flatnonzero(self.counts)
        if not used.size:
            return 0.0, 0.0
        return (self.first + int(used[0])) * self.width, (self.first + int(used[-1])) * self.width

    def _reserve(self, low: float, high: float, exponent: int = SMALLEST_EXPONENT) -> None:
        """Makes the bins cover [low, high] and be at least 2^exponent wide."""
        if self.exponent is not None:
            inside = self._index(low) >= self.first and self._index(high) < self.first + self.counts.size
            if inside and exponent <= self.exponent:
                return
            occupied = self._occupied()
            low, high = min(low, occupied[0]), max(high, occupied[1])
            exponent = max(exponent, self.exponent)
        self._coarsen(_fitting_exponent(low, high, exponent, self.counts.size), low, high)

    def _coarsen(self, exponent: int, low: float, high: float) -> None:
        """Moves the counts to bins of 2^exponent, with the spare bins split evenly to both sides of [low, high]."""
        used = np.flatnonzero(self.counts)
        indices = (self.first + used) >> (exponent - self.exponent) if self.exponent is not None else used
        kept = self.counts[used]
        self.exponent = exponent
        spare = self.counts.size - (self._index(high) - self._index(low) + 1)
        self.first = self._index(low) - spare // 2
        self.counts = np.bincount(indices - self.first, weights=kept, minlength=self.counts.size).astype(np.float64)

    def _index(self, value: float) -> int:
        assert self.exponent is not None
        return math.floor(math.ldexp(value, -self.exponent))


def _fitting_exponent(low: float, high: float, smallest: int, bins: int) -> int:
    """The smallest exponent >= ``smallest`` for which [low, high] fits into ``bins`` bins."""
    largest = max(-low, high)
    exponent = max(smallest, math.frexp(largest)[1] - LARGEST_INDEX_BITS)
    if high > low:
        exponent = max(exponent, math.frexp((high - low) / bins)[1] - 1)
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= bins:
        exponent += 1
    return exponent
