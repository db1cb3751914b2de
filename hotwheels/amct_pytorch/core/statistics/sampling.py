"""Summary: what a RangeStatistics takes from one tensor - its exact tails, and weighted samples of the rest."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import CalibrationError
from .tail import CAPACITY

Values = NDArray[np.float32]

EXACT_SIZE = 1 << 17
_UNEVEN = 0.9877  # avoids a sampling stride that divides the row length; makes the sample about 1 % larger
LEAST_ROWS = 4096  # a tensor is cut into at least so many rows: then the tails are in a few rows, which are gathered
_LONGEST_ROW = 1024
_BLOCK = 1 << 20  # elements reduced at once: they are still in the cache when the second reduction reads them
# Rows gathered to sample a tail below its exact largest elements; not gathered if the plain sample has PLENTY elements
# there.
TAIL_ROWS = 256
PLENTY = 8 * TAIL_ROWS


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Two thresholds: an element is beyond them if it is above ``high`` or below ``low``. Default: all are beyond."""

    low: float = math.inf
    high: float = -math.inf


_EVERYTHING = Bounds(-math.inf, math.inf)  # nothing is beyond


@dataclasses.dataclass(frozen=True)
class Wish:
    """What the RangeStatistics already has, and which elements it needs precisely.

    Attributes:
      known: Only elements beyond these bounds (the floors of both Tails) can still enter the exact tails.
      ranks: (low, high): the range ends at the low-th smallest and the high-th largest value, k of spec 5.1.
      tail_start: Elements above this share of the range's upper bound are sampled densely, since they may get clipped.
      symmetric: Whether the negative side is sampled densely too, relative to the larger bound.
      sample_size: Tensors up to this size are taken as a whole; of larger tensors about so many elements are sampled.
    """

    known: Bounds
    ranks: tuple[int, int]
    tail_start: float
    symmetric: bool
    sample_size: int = EXACT_SIZE


@dataclasses.dataclass(frozen=True)
class Rows:
    """How a large tensor is cut into rows, and sampled.

    Attributes:
      count: Number of rows; 0 for a tensor that is taken as a whole.
      length: Elements of a row.
      distance: Of two samples; at least 1.
    """

    count: int
    length: int
    distance: float = 1.0

    @classmethod
    def of(cls, elements: int, sample_size: int) -> Rows:
        """Returns the rows of a tensor of so many elements, of which those that do not fill a row are left."""
        length = min(_LONGEST_ROW, 1 << max(0, (elements // LEAST_ROWS).bit_length() - 1))
        count = elements // length if elements > sample_size else 0
        # The distance is no integer, so the samples do not all fall on the same column or channel of the tensor.
        return cls(count, length, max(1.0, _UNEVEN / min(1.0, sample_size / (count * length))) if count else 1.0)

    @property
    def size(self) -> int:
        """Elements of all rows."""
        return self.count * self.length

    @property
    def block(self) -> int:
        """Rows of a block on the CPU; the samples start anew in each block."""
        return max(1, _BLOCK // self.length)

    def samples_of(self, rows: int) -> int:
        """Returns the number of samples of so many rows of a block."""
        return int(rows * self.length / self.distance)


@dataclasses.dataclass(frozen=True)
class Summary:
    """All elements of one tensor, the extreme ones exactly, the others by samples.

    Attributes:
      count: Number of elements.
      minimum: Smallest element.
      maximum: Largest element.
      exact: Beyond these bounds ``outer`` is complete.
      outer: The elements beyond ``exact``, unsorted.
      filled: (low, high): whether at least CAPACITY elements are at or beyond that bound of ``exact``.
      samples: (values, weight) pairs that stand for all other elements; sizes times weights sum to their number.
    """

    count: int
    minimum: float
    maximum: float
    exact: Bounds
    outer: Values
    filled: tuple[bool, bool]
    samples: tuple[tuple[Values, float], ...]


def summarise(x: Tensor, wish: Wish) -> list[Summary]:
    """Returns the summaries of ``x``: one, and a second for the elements that do not fill a row; [] if ``x`` is empty.

    Args:
      x: A float tensor of any shape, layout and device.
      wish: Which elements are needed precisely.

    Raises:
      CalibrationError: If ``x`` holds NaN or infinity.
    """
    flat = flat_view(x.detach())
    rows = Rows.of(flat.numel(), wish.sample_size)
    parts = []
    if rows.count:
        parts.append(_summary_of_large(flat[: rows.size].view(-1, rows.length), rows.distance, wish))
    if rows.size < flat.numel():
        parts.append(_summary_of_small(_to_numpy(flat[rows.size :]), wish.known))
    return parts


def flat_view(x: Tensor) -> Tensor:
    """Returns the elements of ``x`` as one dimension: a view in memory order where ``x`` is dense, else a copy."""
    if x.is_contiguous():
        return x.view(-1)
    dims = sorted((d for d in range(x.dim()) if x.shape[d] != 1), key=x.stride)
    expected = 1
    for d in dims:
        if x.stride(d) != expected:
            return x.reshape(-1)
        expected *= x.shape[d]
    return x.as_strided((x.numel(),), (1,))


def _summary_of_small(values: Values, known: Bounds) -> Summary:
    """Returns the summary of all ``values``: the extremes in ``outer``, all others as samples of weight 1."""
    minimum, maximum = float(values.min()), float(values.max())
    _check_finite(minimum, maximum)
    # Columns instead of rows: reduced along the slow axis, which is fast for short columns too.
    depth = max(1, values.size // LEAST_ROWS)
    columns = values[: values.size // depth * depth].reshape(depth, -1)
    lows, highs = columns.min(0), columns.max(0)
    ends = Bounds(_kth_lowest(lows, CAPACITY)[0], -_kth_lowest(-highs, CAPACITY)[0])
    exact, filled = _exact_bounds(ends, highs.size, known)
    is_outer = (values > exact.high) | (values < exact.low)
    samples = ((values[~is_outer], 1.0),)
    return Summary(values.size, minimum, maximum, exact, values[is_outer], filled, samples)


def _summary_of_large(rows: Tensor, distance: float, wish: Wish) -> Summary:
    """Returns the summary of ``rows``: the exact row extremes show which rows hold the tails; the rest is sampled."""
    lows, highs, sample = _reduce(rows, distance)
    minimum, maximum = float(lows.min()), float(highs.max())
    _check_finite(minimum, maximum)
    low, low_rank = _kth_lowest(lows, CAPACITY, wish.ranks[0])
    high, high_rank = _kth_lowest(-highs, CAPACITY, wish.ranks[1])
    exact, filled = _exact_bounds(Bounds(low, -high), highs.size, wish.known)
    outer = _collect(rows, _reaching(lows, highs, exact), exact)
    tails = _tail_bounds(Bounds(low_rank, -high_rank), exact, sample, wish)
    middle, weight = _tail_sample(rows, _reaching(lows, highs, tails), tails, exact)
    body = sample[(sample <= tails.high) & (sample >= tails.low)]
    rest = rows.numel() - outer.size - weight * middle.size
    samples = ((middle, weight), (body, rest / max(1, body.size)))
    return Summary(rows.numel(), minimum, maximum, exact, outer, filled, samples)


def _reduce(rows: Tensor, distance: float) -> tuple[Values, Values, Values]:
    """Returns (minima, maxima, sample): of each row, and an even sample of all elements.

    Works block by block, so that the second and later reductions find the values in the cache.
    """
    height = max(1, _BLOCK // rows.shape[1]) if rows.device.type == "cpu" else rows.shape[0]
    parts = []
    for block in torch.split(rows, height):
        positions = _sample_positions(block.numel(), distance, block.device)
        parts.append((block.amin(dim=1), block.amax(dim=1), block.view(-1).index_select(0, positions)))
    lows, highs, sample = (_to_numpy(torch.cat(part)) for part in zip(*parts, strict=True))
    return lows, highs, sample


def _exact_bounds(ends: Bounds, groups: int, known: Bounds) -> tuple[Bounds, tuple[bool, bool]]:
    """Returns bounds that fewer than CAPACITY groups of elements reach beyond, and (low, high): whether each is filled.

    ``ends`` are the CAPACITY-th lowest group minimum and the CAPACITY-th highest group maximum; at least CAPACITY
    elements are >= that maximum. With too few groups the two tails would overlap: the known bounds are returned.
    """
    if groups <= 2 * CAPACITY:
        return known, (False, False)
    exact = Bounds(min(ends.low, known.low), max(ends.high, known.high))
    return exact, (ends.low < known.low, ends.high > known.high)


def _tail_bounds(ends: Bounds, exact: Bounds, sample: Values, wish: Wish) -> Bounds:
    """Returns the bounds beyond which the plain sample is too thin; the exact bounds if it suffices everywhere.

    ``ends`` are the row extremes at the ranks of ``wish``.
    """
    end = wish.tail_start * (max(-ends.low, ends.high) if wish.symmetric else ends.high)
    if end <= 0.0:
        return exact
    has_many_above = np.count_nonzero(sample > end) >= PLENTY
    has_many_below = not wish.symmetric or np.count_nonzero(sample < -end) >= PLENTY
    return Bounds(
        exact.low if has_many_below else max(exact.low, -end),
        exact.high if has_many_above else min(exact.high, end),
    )


def _tail_sample(rows: Tensor, reaching: NDArray[np.intp], tails: Bounds, exact: Bounds) -> tuple[Values, float]:
    """Returns the elements between ``tails`` and ``exact`` of some of the rows ``reaching`` there, and their weight."""
    if tails == exact or not reaching.size:
        return np.empty(0, dtype=np.float32), 1.0
    some = reaching
    if reaching.size > TAIL_ROWS:
        some = reaching[np.arange(TAIL_ROWS) * reaching.size // TAIL_ROWS]
    return _collect(rows, some, tails, exact), reaching.size / some.size


def _reaching(lows: Values, highs: Values, bounds: Bounds) -> NDArray[np.intp]:
    return np.flatnonzero((highs > bounds.high) | (lows < bounds.low))


def _collect(rows: Tensor, indices: NDArray[np.intp], inner: Bounds, bounds: Bounds = _EVERYTHING) -> Values:
    """Returns the elements of the rows ``indices`` that are beyond ``inner``, but not beyond ``bounds``."""
    values = _to_numpy(rows.index_select(0, torch.from_numpy(indices).to(rows.device)))
    values = values[(values > inner.high) | (values < inner.low)]
    return values[(values <= bounds.high) & (values >= bounds.low)]


def _kth_lowest(values: Values, *ranks: int) -> list[float]:
    """Returns the values at these ranks, counted from 1 at the lowest; the highest value for a rank beyond the last."""
    indices = [min(rank, values.size) - 1 for rank in ranks]
    ordered = np.partition(values, sorted({*indices}))
    return [float(ordered[index]) for index in indices]


@functools.lru_cache(maxsize=16)
def _sample_positions(count: int, distance: float, device: torch.device) -> Tensor:
    """Evenly spaced positions in ``count`` elements."""
    return (torch.arange(int(count / distance), dtype=torch.float64) * distance).long().to(device)


def _check_finite(minimum: float, maximum: float) -> None:
    if not (math.isfinite(minimum) and math.isfinite(maximum)):
        msg = f"The tensor holds NaN or infinite values: its range is [{minimum}, {maximum}]."
        raise CalibrationError(msg)


def _to_numpy(x: Tensor) -> Values:
    return x.to(device="cpu", dtype=torch.float32).contiguous().numpy()
