"""The grid with the least error is found even if the error is 0, of which rounding leaves a negative number."""

from __future__ import annotations

import numpy as np
import torch

from hotwheels.amct_pytorch.core.statistics.grid_error import expected_errors, least_error
from hotwheels.amct_pytorch.core.statistics.range_statistics import RangeStatistics


def test_values_that_differ_in_their_last_bits() -> None:
    """The distances of an untrained detector: all 7.5, up to four steps of float32 away."""
    counts = {-4: 1, -3: 19, -2: 54, -1: 106, 0: 239, 1: 60, 2: 21, 3: 3, 4: 1}
    step = float(np.spacing(np.float32(7.5)))
    values = [7.5 + step * steps for steps, count in counts.items() for _ in range(count)]
    statistics = RangeStatistics()
    statistics.update(torch.tensor(values))
    scale = max(values) / 255 * np.linspace(0.7, 1.3, 61)
    low, high = np.zeros_like(scale), np.full_like(scale, 255.0)
    assert expected_errors(statistics, scale, low, high).min() < 0
    found = least_error(statistics, scale, low, high)
    assert abs(np.rint(7.5 / scale[found]) * scale[found] - 7.5) < 1e-5
