"""Weight and bias integers: equal to torch's, or to a slow search if torch computes none."""

import itertools
from fractions import Fraction

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.core import affine
from hotwheels.amct_pytorch.core.search.codebook import assign
from hotwheels.amct_pytorch.errors import ExportError
from hotwheels.amct_pytorch.export.quantized_constants import (
    WeightIntegers,
    bias_scale,
    fake_quantize,
    output_first,
    quantize_bias,
    spread_scale,
)
from hotwheels.amct_pytorch.record import ActivationRecord, WeightRecord

CODEBOOK = (-127, -100, -80, -60, -45, -30, -18, -6, 5, 17, 29, 44, 61, 83, 101, 127)


def quantize_weight(*args):
    return WeightIntegers.of(*args).all()


def canonical(scale):
    one = np.float32(1)
    return float(one / (one / np.float32(scale)))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    st.floats(2.0**-20, 1e4, width=32),
    st.sampled_from([4, 8]),
)
def test_uniform_weights_equal_torch(values, scale, num_bits):
    weight, scale = np.array(values, dtype=np.float32).reshape(1, -1), canonical(scale)
    wanted = affine.quantize(torch.from_numpy(weight), torch.tensor(scale), torch.tensor(0), num_bits)
    found = quantize_weight(weight, WeightRecord(scale=(scale,), num_bits=num_bits), 0)
    assert found.dtype == np.int8
    assert np.array_equal(found, wanted.numpy())


def test_ties_go_to_the_even_integer_and_ends_are_clipped():
    weight = np.array([[0.5, 1.5, -0.5, -1.5, 2.5, 200, -200]], dtype=np.float32)
    assert quantize_weight(weight, WeightRecord(scale=(1.0,)), 0).tolist() == [[0, 2, 0, -2, 2, 127, -128]]


@pytest.mark.parametrize(("axis", "shape"), [(0, (3, 2, 2, 2)), (1, (2, 3, 2, 2)), (1, (4, 3))])
def test_scale_per_channel(axis, shape):
    weight = np.ones(shape, dtype=np.float32)
    found = quantize_weight(weight, WeightRecord(scale=(1.0, 0.5, 0.25)), axis)
    for channel, wanted in enumerate([1, 2, 4]):
        assert (found.take(channel, axis) == wanted).all()


def test_channels_of_a_grouped_deconvolution():
    """Output channel g * out/G + j is the rows of group g, column j (spec 6.1)."""
    groups, per_group = 3, 2
    scale = tuple(2.0**-k for k in range(groups * per_group))
    found = quantize_weight(np.ones((6, per_group, 1, 1), dtype=np.float32), WeightRecord(scale=scale), 1, groups)
    for row, column in itertools.product(range(6), range(per_group)):
        assert found[row, column] == 2 ** (row // 2 * per_group + column)


@pytest.mark.parametrize(("axis", "groups", "scales"), [(0, 1, 6), (1, 1, 4), (1, 3, 12), (0, 1, 1)])
@pytest.mark.parametrize("codebook", [None, CODEBOOK])
def test_some_rows_are_those_of_all(axis, groups, scales, codebook):
    weight = np.random.default_rng(0).standard_normal((6, 4, 3, 1)).astype(np.float32)
    scale = tuple(0.01 * (1 + k) for k in range(scales))
    integers = WeightIntegers.of(weight, WeightRecord(scale=scale, codebook=codebook), axis, groups)
    for start, stop in [(0, 1), (1, 2), (2, 6), (5, 6)]:
        assert np.array_equal(integers.rows(start, stop), integers.all()[start:stop])
    assert np.array_equal(integers.tensor(ir.DataType.FLOAT).numpy(), integers.all())


@pytest.mark.parametrize("scales", [(0.5,), (0.5, 0.25, 0.125, 1.0)], ids=["one", "per column"])
def test_matrix_that_is_transposed_in_memory_has_the_same_integers(scales):
    weight = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    record = WeightRecord(scale=scales)
    wanted, found = (WeightIntegers.of(one, record, 1) for one in (weight, np.asfortranarray(weight)))
    assert np.array_equal(wanted.all(), np.rint(weight / np.float32(scales)).clip(-128, 127))
    assert np.array_equal(found.all(), wanted.all())
    assert np.array_equal(found.rows(1, 3), wanted.rows(1, 3))


def test_output_first_undoes_the_layout_of_torch():
    weight = np.arange(6 * 2 * 1 * 3, dtype=np.int8).reshape(6, 2, 1, 3)
    rows = output_first(weight, 3)
    assert rows.shape == (6, 2, 1, 3)
    for group, row, column in itertools.product(range(3), range(2), range(2)):
        assert np.array_equal(rows[group * 2 + column, row], weight[group * 2 + row, column])


def test_wrong_number_of_scales():
    with pytest.raises(ExportError, match="6 output channels, the record has 2 scales"):
        spread_scale((1.0, 2.0), (6, 2, 1, 1), 1, 3)


def test_codebook_takes_the_nearest_value_and_a_tie_the_lower():
    scale = 0.5
    weight = np.array([[-1000, 0, -0.25, -0.5, 5.5, 5.500001, 1000, 57.0]], dtype=np.float32)
    found = quantize_weight(weight, WeightRecord(scale=(scale,), num_bits=4, codebook=CODEBOOK), 0)
    assert found.tolist() == [[-127, 5, -6, -6, 5, 17, 127, 101]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-128, 127), min_size=16, max_size=16), st.floats(2.0**-20, 8, width=32), st.data())
def test_codebook_equals_a_search_in_exact_arithmetic(codebook, scale, data):
    scale, codebook = canonical(scale), sorted(codebook)
    limit = float(np.float32(200 * scale))
    values = data.draw(st.lists(st.floats(-limit, limit, width=32), min_size=1, max_size=5))
    record = WeightRecord(scale=(scale,), num_bits=4, codebook=tuple(codebook))
    found = quantize_weight(np.array([values], dtype=np.float32), record, 0)
    for value, chosen in zip(values, found[0].tolist(), strict=True):
        units = Fraction(value) / Fraction(scale)
        nearest = min(abs(units - one) for one in codebook)
        # The division is rounded to float32 (of at most 200): next to a tie either neighbour may win.
        assert abs(units - chosen) <= nearest + Fraction(2.0**-16)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), st.floats(2.0**-10, 8, width=32))
def test_bias_equals_torch(bias, data_scale):
    data_scale, weight_scale = canonical(data_scale), tuple(map(canonical, (0.01, 0.02, 0.5)))
    wanted = affine.quantize_bias(torch.tensor(bias), torch.tensor(data_scale), torch.tensor(weight_scale))
    found = quantize_bias(np.array(bias, dtype=np.float32), data_scale, weight_scale)
    assert found.dtype == np.int32
    assert np.array_equal(found, wanted.numpy())


def test_bias_at_the_end_of_int32():
    highest = np.array([2147483520.0], dtype=np.float32)  # the largest float32 below 2^31
    assert quantize_bias(highest, 1.0, (1.0,)).tolist() == [2147483520]
    with pytest.raises(ExportError, match="2147483648"):
        quantize_bias(np.array([2147483648.0], dtype=np.float32), 1.0, (1.0,))


def test_bias_scale_is_the_float32_product():
    first, second = canonical(0.1), canonical(0.3)
    assert bias_scale(first, (second,)) == np.float32(first) * np.float32(second)
    assert bias_scale(first, (second, first)).shape == (2,)


@pytest.mark.parametrize("num_bits", [4, 8, 12, 16])
def test_constants_are_fake_quantized_as_by_torch(num_bits):
    x = np.linspace(-3, 3, 1001, dtype=np.float32)
    scale = canonical(0.037)
    wanted = affine.fake_quantize(torch.from_numpy(x), torch.tensor(scale), torch.tensor(5), num_bits)
    record = ActivationRecord(index=0, scale=scale, offset=5, num_bits=num_bits)
    assert np.array_equal(fake_quantize(x, record), wanted.numpy())


def test_codebook_equals_torch():
    generator = np.random.default_rng(0)
    weight = generator.normal(0, 1, (8, 500)).astype(np.float32)
    for scale in (canonical(0.02), canonical(1 / 64)):
        grid = np.array(CODEBOOK, dtype=np.float64)
        ties = ((grid[:-1] + grid[1:]) / 2 * scale).astype(np.float32)
        given = np.concatenate([weight.reshape(-1), ties]).reshape(1, -1)
        found = quantize_weight(given, WeightRecord(scale=(scale,), num_bits=4, codebook=CODEBOOK), 0)
        wanted = assign(torch.from_numpy(given), torch.tensor(scale), torch.tensor(CODEBOOK))
        assert np.array_equal(found, wanted.numpy())
