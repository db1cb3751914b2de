"""IFMR: bounds from percentiles, then the upper bound of the least squared error among its multiples (spec 5.1)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import CalibrationError
from ..affine import affine_params, params_of_numbers
from ..params import QuantParams
from ..spec import SMALLEST_SCALE, QuantSpec
from ..statistics.grid_error import least_error, sum_of_squares
from ..statistics.range_statistics import RangeStatistics, rank

Numbers = NDArray[np.float64]
# (scales, lowest integers, highest integers) of the candidates -> index of the best candidate, the first of equals
Chooser = Callable[[Numbers, Numbers, Numbers], int]

_TAIL_MARGIN = 0.93  # clipping is watched from a little below the smallest candidate on


@dataclasses.dataclass(frozen=True)
class IfmrOptions:
    """The percentiles and the candidates of the IFMR search.

    Attributes:
      max_percentile: Share of the values below the upper bound, (0.5, 1].
      min_percentile: Share of the values above the lower bound, (0.5, 1].
      search_start: Smallest multiple of the bound that is tried, > 0.
      search_end: Largest one, included.
      search_step: Distance between two multiples.
    """

    max_percentile: float = 0.999999
    min_percentile: float = 0.999999
    search_start: float = 0.7
    search_end: float = 1.3
    search_step: float = 0.01

    def __deepcopy__(self, memo: dict[int, Any]) -> IfmrOptions:
        """Returns the options themselves, which nobody changes."""
        return self

    @property
    def ratios(self) -> Numbers:
        """The multiples ``start + i * step``, i = 0..round((end - start) / step), float64."""
        return _ratios(self.search_start, self.search_end, self.search_step)

    def new_statistics(self, spec: QuantSpec) -> RangeStatistics:
        """Returns empty statistics that keep the percentiles and tails which this search needs."""
        return RangeStatistics(
            self.max_percentile, self.min_percentile, self.search_start * _TAIL_MARGIN, spec.symmetric
        )


@dataclasses.dataclass(frozen=True)
class IfmrResult:
    """The chosen grid, as numbers: an operation on a tensor of one element takes ten times as long.

    Attributes:
      scale: Real value of one step, a float32, canonical.
      offset: Integer that stands for 0.0.
      low: Lower bound of the data, <= 0, a float32; -high if symmetric.
      high: Chosen upper bound, >= 0, a float32.
    """

    scale: float
    offset: int
    low: float
    high: float

    def params(self, num_bits: int) -> QuantParams:
        """Returns the grid as tensors on the CPU; ``num_bits`` is the width that was searched for."""
        scale, offset = torch.tensor(self.scale), torch.tensor(self.offset, dtype=torch.int32)
        return QuantParams(scale=scale, offset=offset, num_bits=num_bits)


def search(
    statistics: RangeStatistics,
    spec: QuantSpec,
    options: IfmrOptions | None = None,
    legacy_negative_full_scale: bool = False,
) -> IfmrResult:
    """Returns the grid of least expected squared error on all that ``statistics`` has seen.

    Args:
      statistics: Made by ``options.new_statistics(spec)``; the percentiles are taken from it, not from ``options``.
      spec: Width and symmetry; per tensor.
      options: The candidates; None for the defaults.
      legacy_negative_full_scale: Symmetric: divide by 2^(n-1) if the negative side is larger (spec 4.1).

    Raises:
      CalibrationError: If ``statistics`` has seen no value.
    """
    if not statistics.count:
        msg = "No value was observed: there is nothing to search a range for."
        raise CalibrationError(msg)

    def choose(scale: Numbers, low: Numbers, high: Numbers) -> int:
        return least_error(statistics, scale, low, high)

    bounds = statistics.lower_bound(), statistics.upper_bound()
    return _best(bounds, choose, spec, options or IfmrOptions(), legacy_negative_full_scale)


def search_exact(
    samples: Tensor,
    spec: QuantSpec,
    options: IfmrOptions | None = None,
    legacy_negative_full_scale: bool = False,
) -> IfmrResult:
    """Returns the grid of least squared error on all ``samples`` (any shape): the slow search, without statistics.

    Raises:
      CalibrationError: If there are no samples, or NaN or infinite ones.
    """
    values = samples.detach().to(device="cpu", dtype=torch.float32).reshape(-1)
    if not values.numel() or not bool(values.isfinite().all()):
        msg = f"The {values.numel()} observed values are none, or hold NaN or infinity."
        raise CalibrationError(msg)
    options = options or IfmrOptions()

    def choose(scale: Numbers, low: Numbers, high: Numbers) -> int:
        return int(np.argmin(sum_of_squares(values.double().numpy(), scale, low, high)))

    return _best(exact_bounds(values, options), choose, spec, options, legacy_negative_full_scale)


def exact_bounds(values: Tensor, options: IfmrOptions) -> tuple[float, float]:
    """Returns (min_init, max_init): the k-th smallest value, at most 0, and the k-th largest one, at least 0."""
    count = values.numel()
    low = values.kthvalue(rank(options.min_percentile, count)).values
    high = values.kthvalue(count - rank(options.max_percentile, count) + 1).values
    return min(0.0, float(low)), max(0.0, float(high))


def _best(
    bounds: tuple[float, float], choose: Chooser, spec: QuantSpec, options: IfmrOptions, is_legacy: bool
) -> IfmrResult:
    """Returns the grid of the candidate that ``choose`` selects."""
    low, high, scale = _candidates(bounds, spec, options, is_legacy)
    best = -1  # the range is empty, so all candidates are equal
    if scale[-1] >= SMALLEST_SCALE:
        best = choose(scale, np.rint(low / scale), np.rint(high / scale))
    return _result(float(low[best]), float(high[best]), spec)


def _candidates(
    bounds: tuple[float, float], spec: QuantSpec, options: IfmrOptions, is_legacy: bool
) -> tuple[Numbers, Numbers, Numbers]:
    """(c_min, c_max, scale) of every multiple: only the upper bound moves, or both if symmetric."""
    ratios = options.ratios
    if not spec.symmetric:
        low, high = np.full_like(ratios, bounds[0]), ratios * bounds[1]
        return low, high, (high - low) / spec.levels
    is_negative_larger = is_legacy and -bounds[0] > bounds[1]
    scale = ratios * max(-bounds[0], bounds[1]) / (-spec.qmin if is_negative_larger else spec.qmax)
    low = (spec.qmin if is_negative_larger else -spec.qmax) * scale
    return low, spec.qmax * scale, scale


@functools.cache
def _ratios(start: float, end: float, step: float) -> Numbers:
    last = round((end - start) / step)
    ratios = np.asarray(start + np.arange(last + 1) * step, dtype=np.float64)
    ratios.flags.writeable = False  # every search of these options has this array
    return ratios


def _result(low: float, high: float, spec: QuantSpec) -> IfmrResult:
    with np.errstate(over="ignore"):
        low, high = float(np.float32(low)), float(np.float32(high))
    bottom = -high if spec.symmetric else low
    if math.isfinite(bottom) and math.isfinite(high):
        return IfmrResult(*params_of_numbers(bottom, high, spec), low=low, high=high)
    scale, offset = affine_params(torch.tensor(bottom), torch.tensor(high), spec)
    return IfmrResult(float(scale), int(offset), low=low, high=high)
