"""RangeStatistics: the statistics of one tensor over all batches of calibration, in constant memory (spec 5.1)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import compiled
from .histogram import GridHistogram
from .sampling import EXACT_SIZE, Bounds, Summary, Wish, flat_view, summarise
from .tail import Tail

Values = NDArray[np.float32]

# Up to this many values are kept one by one. On few values the least error is a matter of chance: the best of 60 grids
# is more than 0.5 % better than its expected error, and a histogram gives only the expected error.
REMEMBERED = 1 << 16
_IN_TAIL = 0.9999  # a lower percentile is found in the histogram, which then needs more samples
_SURELY_ONE = 2.0**-23  # spec 5.1: a percentile closer to 1 than this means the extreme value itself


class RangeStatistics:
    """Count, extremes, percentiles and histogram of all values seen.

    The 128 largest and 128 smallest values are kept as they are, every other value is in the histogram; so percentiles
    near 1 are exact, and an outlier does not widen the bins. Tensors up to 2^17 elements are counted completely; of
    larger ones the extremes are exact and the others sampled evenly (about 2^17, more where values get clipped).
    Up to 2^16 values in all are also kept one by one. Everything is deterministic. The state stays on the CPU.

    Args:
      max_percentile: Share of values below the upper bound, see ``upper_bound``.
      min_percentile: Share of values above the lower bound.
      tail_start: Where clipping may begin, as a share of the bound: large values beyond are sampled more densely.
      symmetric: Whether the clipping on the negative side is of interest too.

    Attributes:
      count: Number of values seen.
      minimum: Smallest value, inf before the first one.
      maximum: Largest value, -inf before the first one.
      histogram: All values that are in neither tail.
    """

    def __init__(
        self,
        max_percentile: float = 0.999999,
        min_percentile: float = 0.999999,
        tail_start: float = 0.65,
        symmetric: bool = False,
    ) -> None:
        self.max_percentile = max_percentile
        self.min_percentile = min_percentile
        self.tail_start = tail_start
        self.symmetric = symmetric
        self.count = 0
        self.minimum = float("inf")
        self.maximum = float("-inf")
        self.histogram = GridHistogram()
        self._values: list[Values] | None = []
        self._largest = Tail()
        self._smallest = Tail()  # of the negated values

    def update(self, x: Tensor) -> None:
        """Takes in all values of ``x``, float of any precision, shape, layout and device.

        Raises:
          CalibrationError: If ``x`` holds NaN or infinity; then no value of ``x`` is counted.
        """
        if not x.numel():
            return
        flat, wish = flat_view(x.detach()), self._wish(self.count + x.numel())
        ends = compiled.observe(self.histogram, self.tails, flat, wish) if compiled.observes(flat) else None
        if ends is None:  # also if `flat` is not finite: the error names the ends
            summaries = summarise(flat, wish)
            for summary in summaries:
                self._take(summary)
            ends = min(one.minimum for one in summaries), max(one.maximum for one in summaries)
        self._remember(*self._copied(flat), count=flat.numel())
        self.count += flat.numel()
        self.minimum, self.maximum = min(self.minimum, ends[0]), max(self.maximum, ends[1])

    def copy(self) -> RangeStatistics:
        """Returns an independent copy; cheap, since arrays that never change are shared."""
        other = copy.copy(self)
        other.histogram = self.histogram.copy()
        other._largest, other._smallest = copy.copy(self._largest), copy.copy(self._smallest)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> RangeStatistics:
        return self.copy()

    def merge(self, other: RangeStatistics) -> None:
        """Adds the statistics of ``other``, e.g. of another process; ``other`` does not change."""
        self._remember(*other._values or [], count=other.count)
        self.count += other.count
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.histogram.merge(other.histogram)
        self._keep(np.concatenate((other.smallest(), other.largest())))

    @property
    def tails(self) -> tuple[Tail, Tail]:
        """The tails of the largest values and of the negated smallest ones."""
        return self._largest, self._smallest

    def largest(self) -> Values:
        """The largest values seen, at most 128, ascending. Disjoint from ``smallest``."""
        return self._largest.values

    def smallest(self) -> Values:
        """The smallest values seen which are not among the largest, at most 128, ascending."""
        return -self._smallest.values[::-1]

    def values(self) -> Values | None:
        """Returns all values seen, in no order; None if there were more than 2^16."""
        if self._values is None:
            return None
        if len(self._values) == 1:
            return self._values[0]
        return np.concatenate((*self._values, np.empty(0, dtype=np.float32)))

    def upper_bound(self) -> float:
        """The k-th largest value, k = n - int(p * n), but not below 0 (max_init of spec 5.1); 0 if nothing was seen."""
        if not self.count:
            return 0.0
        k = rank(self.max_percentile, self.count)
        largest, smallest = self.largest(), self.smallest()
        if k <= largest.size:
            return max(0.0, float(largest[-k]))
        if self.count - k < smallest.size:
            return max(0.0, float(smallest[self.count - k]))
        # A bin may reach into the tail, but the values counted in the bin do not.
        return max(0.0, min(self._largest.floor, self.histogram.kth_largest_positive(k - largest.size)))

    def lower_bound(self) -> float:
        """The k-th smallest value, but not above 0 (min_init of spec 5.1); 0 if nothing was seen."""
        if not self.count:
            return 0.0
        k = rank(self.min_percentile, self.count)
        largest, smallest = self.largest(), self.smallest()
        if k <= smallest.size:
            return min(0.0, float(smallest[k - 1]))
        if self.count - k < largest.size:
            return min(0.0, float(largest[k - self.count - 1]))
        return min(0.0, max(-self._smallest.floor, self.histogram.kth_smallest_negative(k - smallest.size)))

    def densities(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns (edges [m + 1], weight per unit of value [m]) of all values that are neither in a tail nor atoms."""
        return self.histogram.densities(-self._smallest.floor, self._largest.floor)

    def _copied(self, flat: Tensor) -> tuple[Values, ...]:
        """Returns a copy of the values if they are to be kept."""
        if self._values is None or self.count + flat.numel() > REMEMBERED:
            return ()
        return (flat.to(device="cpu", dtype=torch.float32, copy=True).numpy(),)

    def _remember(self, *values: Values, count: int) -> None:
        if self._values is not None:
            fits = self.count + count <= REMEMBERED and sum(part.size for part in values) == count
            self._values = [*self._values, *values] if fits else None

    def _wish(self, count: int) -> Wish:
        return Wish(
            known=Bounds(-self._smallest.floor, self._largest.floor),
            ranks=(rank(self.min_percentile, count), rank(self.max_percentile, count)),
            tail_start=self.tail_start,
            symmetric=self.symmetric,
            sample_size=EXACT_SIZE if min(self.max_percentile, self.min_percentile) >= _IN_TAIL else 4 * EXACT_SIZE,
        )

    def _take(self, summary: Summary) -> None:
        self._watch_saturation(summary)
        for values, weight in summary.samples:
            self.histogram.add(values, weight)
        self._keep(np.concatenate((summary.outer, *self._ties(summary))))

    def _watch_saturation(self, summary: Summary) -> None:
        """Counts an extreme apart if many values are equal to it: its quantization error differs from its bin's."""
        if summary.exact.high == summary.maximum:
            self.histogram.watch(summary.maximum)
        if summary.exact.low == summary.minimum:
            self.histogram.watch(summary.minimum)

    def _ties(self, summary: Summary) -> list[Values]:
        """Returns values equal to the bounds of a summary that belong to the tails; removes them from the histogram.

        At least 128 values are at or beyond a filled bound. If fewer are beyond, the rest of the 128 are equal to it.
        """
        bounds, outer = summary.exact, summary.outer
        found = np.count_nonzero(outer < bounds.low), np.count_nonzero(outer > bounds.high)
        ties = [
            np.full(max(0, self._largest.capacity - number), bound, dtype=np.float32)
            for number, bound, is_filled in zip(found, (bounds.low, bounds.high), summary.filled, strict=True)
            if is_filled
        ]
        for values in ties:
            self.histogram.add(values, -1.0)
        return ties

    def _keep(self, values: Values) -> None:
        """Sorts exact values into the tails; the histogram gets those that fit in neither."""
        rest = self._largest.push(values)
        self.histogram.add(-self._smallest.push(-rest))


def rank(percentile: float, count: int) -> int:
    """Returns k = n - int(p * n), at least 1; 1 if the percentile is 1 but for float32 precision (spec 5.1)."""
    if 1.0 - percentile < _SURELY_ONE:
        return 1
    return max(1, count - int(percentile * count))
