"""Summary: what one tensor tells a RangeStatistics - its exact tails, and samples of the rest with weights."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import CalibrationError
from .. import native
from .extremes import row_extremes
from .tail import CAPACITY

Values = NDArray[np.float32]

EXACT_SIZE = 1 << 17
_UNEVEN = 0.9877  # makes every distance of samples uneven, and the sample about 1 % larger than asked for
_ROWS = 4096  # rows which a tensor is cut into at least: so few of them hold its tails that those can be gathered
_LONGEST_ROW = 1024
_BLOCK = 1 << 20  # elements reduced at once: the minimum finds in the cache what the maximum has just read
# Rows gathered for the part of a tail behind the exact largest elements, and how many elements there in the plain
# sample make that unnecessary.
_TAIL_ROWS = 256
_PLENTY = 8 * _TAIL_ROWS


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Two values: something begins above ``high`` and below ``low``. The default: everything is beyond."""

    low: float = math.inf
    high: float = -math.inf


_EVERYTHING = Bounds(-math.inf, math.inf)  # nothing is beyond


@dataclasses.dataclass(frozen=True)
class Wish:
    """What the reader of a summary already knows, and where it wants to know more.

    Attributes:
      known: Beyond these bounds values still matter to the exact tails (the floors of both Tails).
      ranks: (low, high): which smallest and largest value bound the range, k of spec 5.1.
      tail_start: Above this share of the range's upper bound the values are wanted precisely, as they get clipped.
      symmetric: The same on the negative side, relative to the larger bound.
      sample_size: Tensors up to this size are taken as a whole; of larger ones about so many elements are sampled.
    """

    known: Bounds
    ranks: tuple[int, int]
    tail_start: float
    symmetric: bool
    sample_size: int = EXACT_SIZE


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
    """Returns summaries which together describe ``x``: one, or a second for what does not fill a row; none if empty.

    Args:
      x: A float tensor of any shape, layout and device.
      wish: What is wanted of it.

    Raises:
      CalibrationError: If ``x`` holds NaN or infinity.
    """
    flat = flat_view(x.detach())
    length = _row_length(flat.numel())
    whole = flat.numel() // length * length if flat.numel() > wish.sample_size else 0
    parts = []
    if whole:
        parts.append(_summary_of_large(flat[:whole].view(-1, length), wish))
    if whole < flat.numel():
        parts.append(_summary_of_small(_to_numpy(flat[whole:]), wish.known))
    return parts


def flat_view(x: Tensor) -> Tensor:
    """Returns the elements of ``x`` as one dimension: a view in memory order where ``x`` is dense, else a copy."""
    dims = sorted((d for d in range(x.dim()) if x.shape[d] != 1), key=x.stride)
    expected = 1
    for d in dims:
        if x.stride(d) != expected:
            return x.reshape(-1)
        expected *= x.shape[d]
    return x.as_strided((x.numel(),), (1,))


def _row_length(count: int) -> int:
    return min(_LONGEST_ROW, 1 << max(0, (count // _ROWS).bit_length() - 1))


def _summary_of_small(values: Values, known: Bounds) -> Summary:
    """Every element is looked at; only the extremes are singled out."""
    minimum, maximum = float(values.min()), float(values.max())
    _check_finite(minimum, maximum)
    # Columns instead of rows: reduced along the slow axis, which is fast for short columns too.
    depth = max(1, values.size // _ROWS)
    columns = values[: values.size // depth * depth].reshape(depth, -1)
    lows, highs = columns.min(0), columns.max(0)
    ends = Bounds(_kth_lowest(lows, CAPACITY)[0], -_kth_lowest(-highs, CAPACITY)[0])
    exact, filled = _exact_bounds(ends, highs.size, known)
    is_outer = (values > exact.high) | (values < exact.low)
    samples = ((values[~is_outer], 1.0),)
    return Summary(values.size, minimum, maximum, exact, values[is_outer], filled, samples)


def _summary_of_large(rows: Tensor, wish: Wish) -> Summary:
    """The row extremes are exact and tell where the tails are; the rest is sampled."""
    lows, highs, sample = _reduce(rows, wish.sample_size)
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


def _reduce(rows: Tensor, sample_size: int) -> tuple[Values, Values, Values]:
    """Minimum and maximum of each row, and an even sample of all elements.

    Block by block, so that with torch all but the first reduction find the values in the cache.
    """
    height = max(1, _BLOCK // rows.shape[1]) if rows.device.type == "cpu" else rows.shape[0]
    distance = max(1.0, _UNEVEN / min(1.0, sample_size / rows.numel()))
    if native.handles(rows):
        return native.summarise_rows(rows, height, distance)
    parts = []
    for block in torch.split(rows, height):
        positions = _sample_positions(block.numel(), distance, block.device)
        parts.append((*row_extremes(block), block.view(-1).index_select(0, positions)))
    lows, highs, sample = (_to_numpy(torch.cat(part)) for part in zip(*parts, strict=True))
    return lows, highs, sample


def _exact_bounds(ends: Bounds, groups: int, known: Bounds) -> tuple[Bounds, tuple[bool, bool]]:
    """Bounds which fewer than CAPACITY of the groups of elements reach beyond.

    ``ends`` are the CAPACITY-th lowest group minimum and highest group maximum; at least CAPACITY elements are >= the
    latter. Too few groups for that to leave the two tails apart: only the known bounds.
    """
    if groups <= 2 * CAPACITY:
        return known, (False, False)
    exact = Bounds(min(ends.low, known.low), max(ends.high, known.high))
    return exact, (ends.low < known.low, ends.high > known.high)


def _tail_bounds(ends: Bounds, exact: Bounds, sample: Values, wish: Wish) -> Bounds:
    """Where the elements begin that need more than the plain sample; the exact bounds where none do.

    ``ends`` are the row extremes of the ranks wished for.
    """
    end = wish.tail_start * (max(-ends.low, ends.high) if wish.symmetric else ends.high)
    if end <= 0.0:
        return exact
    has_many_above = np.count_nonzero(sample > end) >= _PLENTY
    has_many_below = not wish.symmetric or np.count_nonzero(sample < -end) >= _PLENTY
    return Bounds(
        exact.low if has_many_below else max(exact.low, -end),
        exact.high if has_many_above else min(exact.high, end),
    )


def _tail_sample(rows: Tensor, reaching: NDArray[np.intp], tails: Bounds, exact: Bounds) -> tuple[Values, float]:
    """Elements between ``tails`` and ``exact`` of some of the rows ``reaching`` there, and the weight of each."""
    if tails == exact or not reaching.size:
        return np.empty(0, dtype=np.float32), 1.0
    some = reaching
    if reaching.size > _TAIL_ROWS:
        some = reaching[np.arange(_TAIL_ROWS) * reaching.size // _TAIL_ROWS]
    return _collect(rows, some, tails, exact), reaching.size / some.size


def _reaching(lows: Values, highs: Values, bounds: Bounds) -> NDArray[np.intp]:
    return np.flatnonzero((highs > bounds.high) | (lows < bounds.low))


def _collect(rows: Tensor, indices: NDArray[np.intp], inner: Bounds, bounds: Bounds = _EVERYTHING) -> Values:
    """The elements of the rows ``indices`` that are beyond ``inner``, but not beyond ``bounds``."""
    if native.handles(rows):
        return native.collect(rows, indices, (inner.low, inner.high), (bounds.low, bounds.high))
    values = _to_numpy(rows.index_select(0, torch.from_numpy(indices).to(rows.device)))
    values = values[(values > inner.high) | (values < inner.low)]
    return values[(values <= bounds.high) & (values >= bounds.low)]


def _kth_lowest(values: Values, *ranks: int) -> list[float]:
    """The values of these ranks, counted from 1 at the lowest; the highest value for ranks beyond the last."""
    indices = [min(rank, values.size) - 1 for rank in ranks]
    ordered = np.partition(values, sorted({*indices}))
    return [float(ordered[index]) for index in indices]


@functools.lru_cache(maxsize=16)
def _sample_positions(count: int, distance: float, device: torch.device) -> Tensor:
    """Evenly spaced positions in ``count`` elements.

    The distance is no integer, so that no row, column or channel of the tensor is preferred.
    """
    return (torch.arange(int(count / distance), dtype=torch.float64) * distance).long().to(device)


def _check_finite(minimum: float, maximum: float) -> None:
    if not (math.isfinite(minimum) and math.isfinite(maximum)):
        msg = f"The tensor holds NaN or infinite values: its range is [{minimum}, {maximum}]."
        raise CalibrationError(msg)


def _to_numpy(x: Tensor) -> Values:
    return x.to(device="cpu", dtype=torch.float32).contiguous().numpy()
