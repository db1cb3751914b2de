import numpy as np
import pytest
import torch

from hotwheels.amct_pytorch.core import affine
from hotwheels.amct_pytorch.core.search.luq import MAX_VALUE_EPS, batch_bound, luq_params
from hotwheels.amct_pytorch.core.spec import QuantSpec
from hotwheels.amct_pytorch.errors import CalibrationError


def grid_error(x, low, high, spec):
    grid = affine.affine_params(torch.tensor(low), torch.tensor(high), spec)
    return float((affine.fake_quantize(x.double(), *grid, spec.num_bits) - x).square().sum())


def reference(x, spec, start=0.5, end=1.5, steps=100):
    """spec 5.3: every multiple of the range, the first of the least error."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    if spec.symmetric:
        high = max(-low, high)
        low = -high
    bounds = [
        ((start + i * (end - start) / (steps - 1)) * low, (start + i * (end - start) / (steps - 1)) * high)
        for i in range(steps)
    ]
    return min(bounds, key=lambda bound: grid_error(x, *bound, spec))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("num_bits", [8, 10, 12, 16])
@pytest.mark.parametrize("kind", ["normal", "relu", "uniform", "heavy"])
def test_batch_bound_is_as_good_as_the_definition(kind, num_bits, symmetric):
    x = torch.randn(20000, generator=torch.Generator().manual_seed(1))
    x = {"normal": x, "relu": x.relu(), "uniform": torch.special.ndtr(x) - 0.3, "heavy": x**3}[kind]
    spec = QuantSpec(num_bits=num_bits, symmetric=symmetric)
    got, expected = batch_bound(x, spec), reference(x, spec)
    assert grid_error(x, *got, spec) <= 1.005 * grid_error(x, *expected, spec)


def test_large_batch_is_sampled():
    x = torch.randn(1 << 20, generator=torch.Generator().manual_seed(2))
    spec = QuantSpec(symmetric=True)
    assert grid_error(x, *batch_bound(x, spec), spec) <= 1.005 * grid_error(x, *reference(x, spec, steps=100), spec)


def test_zero_and_empty_batches():
    for x in (torch.zeros(10), torch.empty(0)):
        assert batch_bound(x, QuantSpec(symmetric=True)) == (0.0, 0.0)


def test_steps_are_a_count():
    x = torch.tensor([-1.0, 2.0])
    low, high = batch_bound(x, QuantSpec(), search_start=1.0, search_end=1.5, steps=1)
    assert (low, high) == (-1.0, 2.0)


def test_non_finite_batch():
    with pytest.raises(CalibrationError):
        batch_bound(torch.tensor([np.nan]), QuantSpec())


def test_symmetric_params():
    params = luq_params(torch.tensor(2.0, requires_grad=True), None, QuantSpec(symmetric=True))
    assert float(params.scale) == pytest.approx(2 / 127)
    assert int(params.offset) == 0
    assert not params.scale.requires_grad


def test_affine_params():
    params = luq_params(torch.tensor(2.0), torch.tensor(-1.0), QuantSpec())
    assert float(params.scale) == pytest.approx(3 / 255)
    assert int(params.offset) == -128 + 85
    assert int(luq_params(torch.tensor(2.0), None, QuantSpec()).offset) == -128


def test_max_value_has_a_lower_bound():
    params = luq_params(torch.tensor(-1.0), None, QuantSpec(symmetric=True))
    assert float(params.scale) == pytest.approx(MAX_VALUE_EPS / 127)
