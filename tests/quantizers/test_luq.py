"""LUQ activation and weight quantizers and LuqMseObserver against slow references of spec 5.3."""

import math

import numpy as np
import pytest
import torch

from hotwheels.amct_pytorch.errors import ConfigError
from hotwheels.amct_pytorch.quantizers import (
    IFMRObserver,
    LuqActivationFakeQuantize,
    LuqMseObserver,
    LuqWeightFakeQuantize,
)

EPS = 0.00038928920371275036


def best_symmetric_bound(x, bits, start=0.5, end=1.5, steps=100):
    qmax = 2 ** (bits - 1) - 1
    best, bound = math.inf, 0.0
    for i in range(steps):
        high = (start + i * (end - start) / (steps - 1)) * np.abs(x).max()
        scale = high / qmax
        error = np.sum((np.round(np.clip(x, -high, high) / scale) * scale - x) ** 2)
        if error < best:
            best, bound = error, high
    return bound


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_observer_finds_the_bound_of_least_error(bits):
    x = np.random.default_rng(3).normal(size=2000)
    observer = LuqMseObserver(num_bits=bits)
    observer(torch.from_numpy(x).float())
    # The curve is flat around its minimum: one candidate of 100 is the resolution.
    assert observer.max_val.item() == pytest.approx(best_symmetric_bound(x, bits), rel=0.03)
    assert observer.min_val == -observer.max_val and observer.zero_point == 0


def test_observer_keeps_the_largest_bound_over_batches():
    observer, wide = LuqMseObserver(), LuqMseObserver()
    torch.manual_seed(0)
    x = torch.randn(500)
    wide(3 * x)
    for batch in (x, 3 * x, x / 2):
        observer(batch)
    assert observer.max_val == wide.max_val


def test_dynamic_is_affine_until_a_negative_value_comes():
    observer = LuqMseObserver(qscheme="dynamic")
    observer(torch.rand(500))
    assert (observer.zero_point.item(), observer.min_val.item(), observer.is_symmetric) == (-128, 0.0, False)
    observer(torch.rand(500) - 0.5)
    assert (observer.zero_point.item(), observer.is_symmetric) == (0, True)
    observer(torch.rand(500))
    assert observer.is_symmetric


def test_affine_keeps_zero_inside():
    observer = LuqMseObserver(qscheme="affine")
    observer(torch.rand(500) + 1)
    assert observer.min_val == 0 and observer.zero_point == -128


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_symmetric_gradient_equals_the_reference(bits):
    rng = np.random.default_rng(bits)
    x, g = rng.normal(size=300).astype(np.float32), rng.normal(size=300).astype(np.float32)
    made = LuqActivationFakeQuantize(num_bits=bits)
    made.observe(torch.from_numpy(x))
    with torch.no_grad():
        made.max_value.fill_(1.25)
    tensor = torch.from_numpy(x).requires_grad_()
    made.fake_quantize(tensor).backward(torch.from_numpy(g))
    qmax, levels = 2 ** (bits - 1) - 1, 2**bits - 1
    scale = made.params().scale.item()
    expected, dx = 0.0, np.zeros_like(g)
    for i, (value, upstream) in enumerate(zip(x.astype(np.float64), g, strict=True)):
        above, below = value > qmax * scale, value < -(qmax + 1) * scale
        v = (1.25 if above else -1.25 if below else value) / scale
        e = (np.round(v) - v) / levels
        expected += (e + above) * upstream - (below - e) * upstream
        dx[i] = 0 if above or below else upstream
    expected /= math.sqrt(300 * qmax)
    np.testing.assert_array_equal(tensor.grad, dx)
    assert made.max_value.grad.item() == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_affine_gradient_is_that_of_the_upper_end():
    made = LuqActivationFakeQuantize(qscheme="affine")
    made.observe(torch.linspace(-1, 3, 100))
    x = torch.full((4,), 100.0, requires_grad=True)
    made.fake_quantize(x).sum().backward()
    high, scale = made.max_value.item(), made.params().scale.item()
    error = (round(high / scale) - high / scale) / 255
    assert made.max_value.grad.item() == pytest.approx(4 * (1 + error) / math.sqrt(4 * 127), rel=1e-3)
    assert made.min_value.grad is None


def test_max_value_does_not_fall_below_eps():
    made = LuqActivationFakeQuantize()
    made.observe(torch.zeros(5))
    assert made.max_value.item() == np.float32(EPS)
    with torch.no_grad():
        made.max_value.fill_(-1.0)
    assert made.params().scale.item() == pytest.approx(EPS / 127, rel=1e-6)
    made.fake_quantize(torch.randn(5, requires_grad=True))
    assert made.max_value.item() == np.float32(EPS)


@pytest.mark.parametrize(
    ("args", "is_symmetric"),
    [
        ({"observer": IFMRObserver}, False),
        ({"observer": IFMRObserver, "with_offset": False}, True),
        ({"observer": IFMRObserver, "qscheme": "symmetric"}, True),
        ({"observer": IFMRObserver, "qscheme": "symmetric", "with_offset": False}, True),
        ({"observer": IFMRObserver, "qscheme": "affine"}, False),
        ({}, True),
        ({"qscheme": "affine"}, False),
        ({"qscheme": "affine", "with_offset": False}, True),
        ({"with_offset": True}, False),
    ],
)
def test_two_words_for_symmetry(args, is_symmetric):
    made = LuqActivationFakeQuantize(**args)
    made.observe(torch.linspace(-1, 3, 1000))
    assert made.is_symmetric == is_symmetric
    assert (made.params().offset.item() == 0) == is_symmetric


def test_every_batch_counts_until_training_moves_the_value():
    made = LuqActivationFakeQuantize()
    made.observe(torch.randn(100))
    first = made.max_value.item()
    made.observe(torch.randn(100) * 10)
    assert made.max_value.item() > first
    with torch.no_grad():
        made.max_value.mul_(0.5)
    trained = made.max_value.item()
    made.observe(torch.randn(100) * 100)
    assert made.max_value.item() == trained


def test_weight_is_symmetric_per_tensor_and_learned():
    torch.manual_seed(0)
    weight = torch.randn(8, 4, 3, 3, requires_grad=True)
    made = LuqWeightFakeQuantize(channels=8)
    made.observe(weight)
    params = made.params(weight)
    assert params.scale.dim() == 0 and params.offset == 0
    made.fake_quantize(weight, params).sum().backward()
    assert made.max_value.grad is not None and weight.grad is not None
    with torch.no_grad():
        made.max_value.fill_(EPS)
    assert made.params(weight, bias=torch.tensor([7.0])).scale.item() >= np.float32(7.63312164e-06)


@pytest.mark.parametrize(
    "args", [{"num_bits": 7}, {"steps": 0}, {"search_start": 0.4}, {"search_end": 1.6}, {"qscheme": "other"}]
)
def test_argument_outside_its_range_is_named(args):
    with pytest.raises(ConfigError, match=next(iter(args))):
        LuqActivationFakeQuantize(**args)
