from __future__ import annotations

import numpy as np
import pytest

from hotwheels.amct_pytorch.errors import CalibrationError
from hotwheels.amct_pytorch.oracle.deploy_pair import Grid
from hotwheels.amct_pytorch.oracle.values import Accumulator, as_real, as_single, centre, quantize


def test_ties_go_to_the_even_integer_before_the_offset() -> None:
    grid = Grid(scale=2.0, offset=-3, num_bits=8)
    x = np.array([-5, -3, -1, 1, 3, 5], dtype=np.float32)  # -2.5 -1.5 -0.5 0.5 1.5 2.5
    assert quantize(x, grid, "conv").tolist() == [-5, -5, -3, -3, -1, -1]


@pytest.mark.parametrize("num_bits", [4, 8, 9, 12, 15, 16])
def test_the_width_clips(num_bits: int) -> None:
    grid = Grid(scale=1.0, offset=1, num_bits=num_bits)
    x = np.array([-np.inf, -1e30, 1e30, np.inf], dtype=np.float32)
    low, high = -(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1
    assert quantize(x, grid, "conv").tolist() == [low, low, high, high]


def test_float32_is_divided_in_float32_and_float64_in_float64() -> None:
    # 0.35 / 0.1 in float32 is 3.5 (rounded up) and in float64 a bit less than 3.5.
    scale = float(np.float32(0.1))
    grid = Grid(scale=scale, offset=0, num_bits=8)
    x = np.array([0.35], dtype=np.float32)
    assert x[0] / np.float32(0.1) == 3.5 and float(x[0]) / scale < 3.5
    assert quantize(x, grid, "conv").tolist() == [4]
    assert quantize(x.astype(np.float64), grid, "conv").tolist() == [3]


def test_an_accumulator_is_multiplied_once_in_float32() -> None:
    grid = Grid(scale=0.3, offset=5, num_bits=16)
    sums = np.array([2**24 + 1, -7, 12345], dtype=np.int32)
    step = np.array([0.0007])
    multiplier = np.float32(0.0007 / 0.3)
    expected = [int(np.rint(np.float32(one) * multiplier)) + 5 for one in sums]
    assert quantize(Accumulator(sums, step), grid, "conv").tolist() == [min(one, 32767) for one in expected]
    assert as_real(Accumulator(sums, step)).tolist() == [one * 0.0007 for one in sums.tolist()]


def test_nan_is_refused_by_name() -> None:
    with pytest.raises(CalibrationError, match=r"'conv7'.*NaN"):
        quantize(np.array([np.nan], dtype=np.float32), Grid(scale=1.0, offset=0, num_bits=8), "conv7")


def test_a_multiplier_beyond_float32_is_refused() -> None:
    sums = Accumulator(np.array([1], dtype=np.int32), np.array([1e30]))
    with pytest.raises(CalibrationError, match=r"'conv7'.*beyond float32"):
        quantize(sums, Grid(scale=1e-30, offset=0, num_bits=8), "conv7")


def test_centred_integers_are_exact_reals() -> None:
    grid = Grid(scale=float(np.float32(0.1)), offset=-128, num_bits=8)
    value = centre(np.array([-128, 127], dtype=np.int32), grid, "conv")
    assert as_real(value).tolist() == [0.0, 255 * float(np.float32(0.1))]
    assert as_single(value).dtype == np.float32


def test_empty_batches_pass() -> None:
    empty = np.zeros((0, 3), dtype=np.float32)
    assert quantize(empty, Grid(scale=1.0, offset=0, num_bits=8), "conv").shape == (0, 3)
