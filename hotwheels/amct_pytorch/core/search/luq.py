"""LUQ: the bound of one batch by squared error, and the grid of a learned bound (spec 5.3)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..affine import affine_params
from ..params import QuantParams
from ..spec import QuantSpec
from ..statistics.grid_error import least_error
from ..statistics.range_statistics import RangeStatistics

Numbers = NDArray[np.float64]

MAX_VALUE_EPS = 0.00038928920371275036  # spec 5.3: smallest learned bound, 255 / 655040
_TAIL_MARGIN = 0.95  # clipping is watched from a little below the smallest candidate on


def batch_bound(
    x: Tensor,
    spec: QuantSpec,
    search_start: float = 0.5,
    search_end: float = 1.5,
    steps: int = 100,
) -> tuple[float, float]:
    """Returns (low, high), the multiple of the range of ``x`` with the least squared error; the first of several.

    Symmetric: ``high = r * max|x|``, ``low = -high``. Affine: ``(r * min(x), r * max(x))`` with 0 inside. The ``steps``
    multiples r are spread evenly over [search_start, search_end]. All zeros, or nothing: (0, 0).

    Raises:
      CalibrationError: If ``x`` holds NaN or infinity.
    """
    # Both sides move with r, so both are watched.
    statistics = RangeStatistics(1.0, 1.0, tail_start=search_start * _TAIL_MARGIN, symmetric=True)
    statistics.update(x)
    low, high = statistics.lower_bound(), statistics.upper_bound()
    if spec.symmetric:
        high = max(-low, high)
        low = -high
    width = (high - low) / (2 * spec.qmax if spec.symmetric else spec.levels)
    if width == 0.0:
        return 0.0, 0.0
    ratios = _ratios(search_start, search_end, steps)
    scale = ratios * width
    ends = (np.full_like(ratios, np.rint(bound / width)) for bound in (low, high))
    best = float(ratios[least_error(statistics, scale, *ends)])
    return best * low, best * high


def luq_params(
    max_value: Tensor, min_value: Tensor | None, spec: QuantSpec, max_value_eps: float = MAX_VALUE_EPS
) -> QuantParams:
    """Returns the grid of a learned bound; canonical, no gradient.

    Symmetric: ``scale = max_value / Qmax``, offset 0. Affine: ``scale = (max_value - min_value) / (2^n - 1)``,
    ``offset = Qmin - rhe(min_value / scale)``.

    Args:
      max_value: Scalar, raised to ``max_value_eps``.
      min_value: Scalar <= 0; ignored if symmetric; None means 0.
      spec: Width and symmetry.
      max_value_eps: Lower bound of ``max_value``.
    """
    high = max_value.detach().clamp(min=max_value_eps)
    low = torch.zeros_like(high) if min_value is None or spec.symmetric else min_value.detach()
    scale, offset = affine_params(low, high, spec)
    return QuantParams(scale=scale, offset=offset, num_bits=spec.num_bits)


def _ratios(start: float, end: float, steps: int) -> Numbers:
    """Returns ``start + i * (end - start) / (steps - 1)``, i = 0..steps - 1; [start] for a single step."""
    return np.asarray(start + np.arange(steps) * ((end - start) / max(1, steps - 1)), dtype=np.float64)
