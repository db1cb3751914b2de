"""IFMR: the histogram search against the exact one, and the exact one against a loop."""

import dataclasses

import numpy as np
import pytest
import torch

from hotwheels.amct_pytorch.core import affine
from hotwheels.amct_pytorch.core.search.ifmr import IfmrOptions, search, search_exact
from hotwheels.amct_pytorch.core.spec import QuantSpec
from hotwheels.amct_pytorch.errors import CalibrationError

WIDTHS = (4, 8, 9, 10, 11, 12, 13, 14, 15, 16)


def reference(values, spec, options):
    """spec 5.1 word by word: (low, high, scale, errors of all candidates)."""
    x = np.sort(values.numpy().astype(np.float64).ravel())
    n = x.size

    def k_of(p):
        return 1 if 1 - p < 2**-23 else n - int(p * n)

    max_init = max(0.0, x[-k_of(options.max_percentile)])
    min_init = min(0.0, x[k_of(options.min_percentile) - 1])
    best, errors = None, []
    for i in range(round((options.search_end - options.search_start) / options.search_step) + 1):
        r = options.search_start + i * options.search_step
        if spec.symmetric:
            c_max = r * max(max_init, -min_init)
            c_min, scale = -c_max, c_max / spec.qmax
        else:
            c_max, c_min = r * max_init, min_init
            scale = (c_max - c_min) / spec.levels
        errors.append(np.sum((np.rint(np.clip(x, c_min, c_max) / scale) * scale - x) ** 2))
        if best is None or errors[-1] < best[0]:
            best = errors[-1], c_min, c_max, scale
    return (*best[1:], np.array(errors))


def squared_error(values, result, spec):
    """Mean squared error of the final grid on all values, float64."""
    total, grid = 0.0, result.params(spec.num_bits)
    for piece in values.double().split(1 << 20):
        total += float((affine.fake_quantize(piece, grid.scale, grid.offset, spec.num_bits) - piece).square().sum())
    return total / values.numel()


def stream(batches, spec, options):
    statistics = options.new_statistics(spec)
    for batch in batches:
        statistics.update(batch)
    return search(statistics, spec, options)


def normal(size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def uniform(size):
    return torch.rand(size, generator=torch.Generator().manual_seed(5))


def with_outlier(size):
    x = normal(size)
    x[size // 3] = 60.0
    return x


DATA = {
    "normal": normal,
    "relu": lambda n: normal(n).relu(),
    "relu6": lambda n: (normal(n) * 3).clamp(0, 6),
    "silu": lambda n: torch.nn.functional.silu(normal(n)),
    "heavy tail": lambda n: normal(n) * normal(n, 1).abs() ** 2,
    "laplace": lambda n: torch.sign(normal(n)) * -torch.log(uniform(n).clamp(min=1e-7)),
    "bimodal": lambda n: torch.cat((normal(n // 2) * 0.1 - 1, normal(n - n // 2, 1) * 0.3 + 4)),
    "uniform": uniform,
    "outlier": with_outlier,
    "negative": lambda n: -normal(n).abs() - 0.5,
    # 8-bit pixels, normalised by channel: 768 values which occur again and again.
    "image": lambda n: (uniform(n) * 256).floor() / 255 / torch.tensor([0.2, 0.21, 0.23]).repeat(n // 3 + 1)[:n] - 2,
    "offset": lambda n: normal(n) * 0.01 + 3,
}


def assert_meets_contract(values, batches, spec, options=None):
    """spec 5.1: MSE on all data at most 0.5 % above the exact choice's, scale as close unless it is a near-tie."""
    options = options or IfmrOptions()
    found = stream(batches, spec, options)
    exact = search_exact(values, spec, options)
    mse, best = squared_error(values, found, spec), squared_error(values, exact, spec)
    assert mse <= 1.005 * best + 1e-30, f"{mse / best}"
    value_range = float(values.max() - values.min())
    is_as_close = abs(float(found.high - exact.high)) <= 0.001 * value_range
    assert is_as_close or mse <= 1.005 * best


@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
@pytest.mark.parametrize("num_bits", WIDTHS)
@pytest.mark.parametrize("name", DATA)
def test_search_on_small_tensors_meets_contract(name, num_bits, symmetric):
    values = DATA[name](20000)
    spec = QuantSpec(num_bits=num_bits, symmetric=symmetric)
    assert_meets_contract(values, values.split([1, 3000, 12000, 4999]), spec)


@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
@pytest.mark.parametrize("num_bits", [4, 8, 12])
@pytest.mark.parametrize("name", DATA)
def test_search_on_sampled_tensors_meets_contract(name, num_bits, symmetric):
    values = DATA[name](1 << 20)
    spec = QuantSpec(num_bits=num_bits, symmetric=symmetric)
    assert_meets_contract(values, values.split([700_001, 100_000, 248_575]), spec)


@pytest.mark.parametrize("percentile", [0.9999, 0.99, 0.9])
@pytest.mark.parametrize("name", ["normal", "relu", "laplace", "uniform"])
def test_low_percentiles_meet_contract(name, percentile):
    values = DATA[name](1 << 19)
    options = IfmrOptions(max_percentile=percentile, min_percentile=percentile)
    assert_meets_contract(values, values.split(1 << 18), QuantSpec(), options)


@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
@pytest.mark.parametrize("num_bits", [2, 3, 4, 8, 12, 16])
@pytest.mark.parametrize("name", ["normal", "relu", "bimodal", "outlier"])
def test_exact_search_equals_the_definition(name, num_bits, symmetric):
    values, spec = DATA[name](3000), QuantSpec(num_bits=num_bits, symmetric=symmetric)
    low, high, scale, _ = reference(values, spec, IfmrOptions())
    result = search_exact(values, spec)
    assert float(result.low) == pytest.approx(low, rel=1e-6)
    assert float(result.high) == pytest.approx(high, rel=1e-6)
    assert float(result.scale) == pytest.approx(scale, rel=1e-6)


def test_few_values_are_searched_exactly():
    """Up to 256 values everything is in the tails, so that the search sees what the exact one sees."""
    for size in (1, 2, 3, 50, 256):
        values = normal(size, seed=size) * 3
        for num_bits in (4, 8, 16):
            spec = QuantSpec(num_bits=num_bits)
            low, high, _, _ = reference(values, spec, IfmrOptions())
            if high == low:
                continue
            found = stream([values], spec, IfmrOptions())
            assert (float(found.low), float(found.high)) == pytest.approx((low, high), rel=1e-6)


@pytest.mark.parametrize("value", [3.0, -3.0, 1e-3])
@pytest.mark.parametrize("size", [1, 1000, 300_000])
def test_constant_tensor_keeps_its_value(value, size):
    for symmetric in (False, True):
        spec = QuantSpec(symmetric=symmetric)
        found = stream([torch.full((size,), value)], spec, IfmrOptions())
        grid = found.params(8)
        got = affine.fake_quantize(torch.tensor([value]), grid.scale, grid.offset, 8)
        assert float(got) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(("symmetric", "offset"), [(False, -128), (True, 0)])
def test_all_zero_tensor_gets_scale_one(symmetric, offset):
    found = stream([torch.zeros(5000)], QuantSpec(symmetric=symmetric), IfmrOptions())
    assert (float(found.scale), int(found.offset)) == (1.0, offset)


def test_candidates_are_counted_not_accumulated():
    ratios = IfmrOptions().ratios
    assert ratios.size == 61
    assert ratios[-1] == pytest.approx(1.3, abs=1e-15)
    assert IfmrOptions(search_start=0.8, search_end=1.0, search_step=0.2).ratios.tolist() == [0.8, 1.0]


def test_only_the_upper_bound_moves():
    values = normal(20000) * 2 + 0.5
    found = search_exact(values, QuantSpec(num_bits=4))
    assert float(found.low) == float(values.min())
    assert float(found.high) < float(values.max())


def test_scale_is_canonical():
    for seed in range(20):
        scale = search_exact(normal(100, seed), QuantSpec()).params(8).scale
        assert torch.equal(affine.canonical_scale(scale), scale)


@pytest.mark.parametrize(("sign", "steps"), [(-1.0, 128), (1.0, 127)])
def test_legacy_negative_full_scale(sign, steps):
    """The larger side decides: 128 steps if it is the negative one."""
    values = torch.linspace(-0.5, 1.0, 1001) * sign
    options = IfmrOptions(search_start=1.0, search_end=1.01, search_step=0.5)
    found = search_exact(values, QuantSpec(symmetric=True), options, legacy_negative_full_scale=True)
    assert float(found.scale) == pytest.approx(1.0 / steps)


def test_post_relu_has_lowest_offset():
    assert int(search_exact(normal(1000).relu(), QuantSpec()).offset) == -128


def test_nothing_observed_is_an_error():
    with pytest.raises(CalibrationError):
        search(IfmrOptions().new_statistics(QuantSpec()), QuantSpec())
    for bad in (torch.empty(0), torch.tensor([1.0, float("nan")]), torch.tensor([float("inf")])):
        with pytest.raises(CalibrationError):
            search_exact(bad, QuantSpec())


def test_result_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        search_exact(normal(10), QuantSpec()).scale = 1.0
