"""quantize, dequantize and their grids against the formulas of spec 4 in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.core import affine
from hotwheels.amct_pytorch.core.spec import QuantSpec

WIDTHS = range(2, 17)
# 1 / x of a larger one is no normal float32 any more
NORMAL = st.floats(2.0**-126, 2.0**125, width=32)


def quantize_reference(x, scale, offset, num_bits):
    """Round half to even, then add the offset, then clip; float32 division."""
    steps = np.rint(x.astype(np.float32) / np.float32(scale))
    return np.clip(steps + offset, -(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1)


def dequantize(integers, scale, offset):
    return (integers - offset) * scale


@given(NORMAL)
@settings(deadline=None)
def test_canonical_scale_is_a_fixed_point(value):
    scale = affine.canonical_scale(torch.tensor(value))
    assert torch.equal(affine.canonical_scale(scale), scale)
    assert float(scale) == pytest.approx(value, rel=2e-7)


def test_canonical_scale_of_every_mantissa_of_an_octave():
    """A stride through all of them; the fixed point does not depend on the exponent."""
    scales = (torch.arange(2**23, 2**24, 7, dtype=torch.int32).float() * 2.0**-30).contiguous()
    once = affine.canonical_scale(scales)
    assert torch.equal(affine.canonical_scale(once), once)


@pytest.mark.parametrize("num_bits", WIDTHS)
def test_quantize_equals_reference(num_bits):
    generator = np.random.default_rng(num_bits)
    x = (generator.standard_normal(5000) * 10).astype(np.float32)
    for scale, offset in ((0.1, 0), (0.037, -(2 ** (num_bits - 1))), (1.5, 1)):
        got = affine.quantize(torch.from_numpy(x), torch.tensor(scale), torch.tensor(offset), num_bits)
        np.testing.assert_array_equal(got.numpy(), quantize_reference(x, scale, offset, num_bits))


@pytest.mark.parametrize("offset", [0, 1, -3])
def test_ties_go_to_the_even_step_before_the_offset_is_added(offset):
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    got = affine.quantize(x, torch.tensor(1.0), torch.tensor(offset), 8) - offset
    assert got.tolist() == [-2, -2, 0, 0, 2, 2]


@pytest.mark.parametrize("num_bits", WIDTHS)
def test_infinity_saturates(num_bits):
    spec = QuantSpec(num_bits=num_bits)
    x = torch.tensor([float("inf"), -float("inf"), 3e38, -3e38])
    got = affine.quantize(x, torch.tensor(0.5), torch.tensor(1), num_bits)
    assert got.tolist() == [spec.qmax, spec.qmin, spec.qmax, spec.qmin]


def test_nan_stays_nan():
    nan = torch.tensor([float("nan")])
    for function in (affine.quantize, affine.fake_quantize):
        assert bool(function(nan, torch.tensor(0.5), torch.tensor(1), 8).isnan())


@pytest.mark.parametrize("num_bits", WIDTHS)
def test_every_integer_survives_dequantize_and_quantize(num_bits):
    spec = QuantSpec(num_bits=num_bits)
    integers = torch.arange(spec.qmin, spec.qmax + 1).float()
    for scale in (0.1, 52.2430191, 1e-6):
        for offset in (0, spec.qmin, spec.qmax):
            grid = torch.tensor(scale), torch.tensor(offset)
            assert torch.equal(affine.quantize(dequantize(integers, *grid), *grid, num_bits), integers)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30),
    st.floats(1e-5, 1e3),
    st.integers(2, 16),
    st.data(),
)
def test_fake_quantize_is_dequantize_of_quantize(values, scale, num_bits, data):
    spec = QuantSpec(num_bits=num_bits)
    offset = torch.tensor(data.draw(st.integers(spec.qmin, spec.qmax)), dtype=torch.int32)
    x, step = torch.tensor(values), affine.canonical_scale(torch.tensor(scale))
    expected = dequantize(affine.quantize(x, step, offset, num_bits), step, offset)
    got = affine.fake_quantize(x, step, offset, num_bits)
    assert torch.equal(got, expected)
    assert torch.equal(affine.fake_quantize(got, step, offset, num_bits), got)
    bottom, top = affine.real_ends(step, offset, num_bits)
    inside = (x >= bottom) & (x <= top)
    # Half a step, and the rounding of float32 on up to 2^16 steps.
    assert bool(((got - x).abs() <= step * 0.51)[inside].all())


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "large"])
def test_fake_quantize_of_any_layout(layout):
    shape = (2, 300, 60, 70) if layout == "large" else (2, 3, 4, 5)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    if layout == "transposed":
        x = x.transpose(1, 3)
    scale, offset, original = torch.tensor(0.05), torch.tensor(-7), x.clone()
    expected = dequantize(affine.quantize(x, scale, offset, 8), scale, offset)
    assert torch.equal(affine.fake_quantize(x, scale, offset, 8), expected)
    assert torch.equal(x, original)


def test_scale_per_channel_broadcasts():
    x = torch.tensor([[1.0, 300.0], [1.0, 300.0]])
    scale, offset = torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1, dtype=torch.int32)
    assert affine.fake_quantize(x, scale, offset, 8).tolist() == [[1.0, 127.0], [0.0, 254.0]]


@pytest.mark.parametrize(
    ("low", "high", "num_bits", "printed"),
    [
        (-np.sqrt(np.float32(1536)), np.sqrt(np.float32(1536)), 12, "52.2430191"),  # spec 11.4
        (-32.0, 32.0, 12, "63.9843712"),
        (0.0, 20.0, 8, "12.75"),
    ],
)
def test_golden_parameter_file_scales(low, high, num_bits, printed):
    scale, offset = affine.affine_params(torch.tensor(low), torch.tensor(high), QuantSpec(num_bits=num_bits))
    assert f"{float(scale.reciprocal()):.9g}" == printed
    if low != -32:  # there -2047.5 steps are a tie, which the float32 scale decides
        assert int(offset) == (-128 if low == 0 else 0)


@pytest.mark.parametrize("num_bits", WIDTHS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_affine_params_equal_formula(num_bits, symmetric):
    spec = QuantSpec(num_bits=num_bits, symmetric=symmetric)
    for low, high in ((-1.0, 3.0), (0.5, 3.0), (-3.0, -0.5), (-2.0, 2.0)):
        scale, offset = affine.affine_params(torch.tensor(low), torch.tensor(high), spec)
        low_, high_ = min(low, 0.0), max(high, 0.0)
        if symmetric:
            assert float(scale) == pytest.approx(max(-low_, high_) / spec.qmax, rel=3e-7)
            assert int(offset) == 0
        else:
            assert float(scale) == pytest.approx((high_ - low_) / spec.levels, rel=3e-7)
            assert int(offset) == spec.qmin - np.rint(np.float32(low_) / scale.numpy())
            assert spec.qmin <= int(offset) <= spec.qmax


@pytest.mark.parametrize(("symmetric", "offset"), [(False, -128), (True, 0)])
@pytest.mark.parametrize("bound", [0.0, 1e-9, 127 * 2.0**-24])
def test_empty_range_gets_scale_one(symmetric, offset, bound):
    spec = QuantSpec(symmetric=symmetric)
    low, high = torch.tensor(-bound / 2), torch.tensor(bound)
    assert affine.is_empty_range(low, high, spec)
    scale, got = affine.affine_params(low, high, spec)
    assert (float(scale), int(got)) == (1.0, offset)


def test_empty_channel_does_not_touch_the_others():
    scale, _ = affine.affine_params(torch.tensor([0.0, -1.0]), torch.tensor([0.0, 1.0]), QuantSpec(symmetric=True))
    assert scale.tolist() == pytest.approx([1.0, 1 / 127])


def test_range_wider_than_float32():
    scale, offset = affine.affine_params(torch.tensor(-3e38), torch.tensor(3e38), QuantSpec())
    assert float(scale) == pytest.approx(6e38 / 255)
    assert int(offset) == 0


@pytest.mark.parametrize("per_channel", [False, True])
def test_bias_scale_floor_keeps_bias_in_int32(per_channel):
    bias = torch.tensor([1000.0, -0.5, 0.0])
    data_scale = torch.tensor(2.0**-20)
    weight_scale = torch.full((3,) if per_channel else (), 2.0**-23)
    floor = affine.bias_scale_floor(bias, data_scale, weight_scale)
    assert bool((affine.quantize_bias(bias, data_scale, floor).abs() <= 2**31 - 1).all())
    assert torch.equal(affine.canonical_scale(floor), floor)
    if per_channel:
        assert float(floor[2]) == 2.0**-23


def test_bias_scale_floor_returns_sufficient_scales_unchanged():
    scale = torch.tensor([0.1, 0.2])
    assert affine.bias_scale_floor(torch.ones(2), torch.tensor(0.1), scale) is scale


def test_bias_is_rounded_in_float64():
    """123456789.5 units: float32 could not even tell the unit."""
    scale = torch.tensor(2.0**-10)
    bias = torch.tensor([123456789.5, 123456788.5], dtype=torch.float64) * 2.0**-20
    assert affine.quantize_bias(bias, scale, scale).tolist() == [123456790.0, 123456788.0]


@pytest.mark.parametrize("num_bits", [4, 8, 12, 16])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_grid_of_numbers_is_that_of_tensors(num_bits, symmetric):
    """Two numbers take a shorter way through NumPy."""
    generator = torch.Generator().manual_seed(0)
    sizes = 10.0 ** torch.randint(-12, 30, (2, 300), generator=generator)
    ends = torch.randn(2, 300, generator=generator) * sizes
    ends[:, :6] = torch.tensor([[0.0, -0.0, -3e38, -1e-45, -1.0, 2.0], [0.0, 3e38, 3e38, 1e-45, 0.5, 3.0]])
    spec = QuantSpec(num_bits=num_bits, symmetric=symmetric)
    scale, offset = affine.affine_params(*ends, spec)
    bottom, top = affine.real_ends(scale, offset, num_bits)
    for index in range(ends.shape[1]):
        found = affine.affine_params(*ends[:, index], spec)
        expected = scale[index], offset[index], bottom[index], top[index]
        for one, other in zip((*found, *affine.real_ends(*found, num_bits)), expected, strict=True):
            assert torch.equal(one, other)
            assert one.dtype == other.dtype
