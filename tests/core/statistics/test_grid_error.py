"""The grid with the least error is found even if the error is 0, of which rounding leaves a negative number."""

from __future__ import annotations

import numpy as np
import torch

from hotwheels.amct_pytorch.core.statistics.grid_error import expected_errors, least_error, sum_of_squares
from hotwheels.amct_pytorch.core.statistics.range_statistics import RangeStatistics


def test_values_that_a_grid_holds_exactly() -> None:
    """Half integers, as in the table of anchors of a detector."""
    statistics = RangeStatistics()
    values = (torch.arange(8, dtype=torch.float32) + 0.5).repeat(512)
    statistics.update(values)
    scale = np.concatenate((np.linspace(7.5 / 400, 7.5 / 200, 100), [0.5 / 16, 0.5 / 8]))
    low, high = np.zeros_like(scale), np.full_like(scale, 255.0)
    assert np.isfinite(expected_errors(statistics, scale, low, high)).all()
    found = least_error(statistics, scale, low, high)
    errors = sum_of_squares(values.double().numpy(), scale, low, high)
    assert errors[found] == errors.min() == 0.0
