"""Integers as bytes, and rounding without a division: equal to torch's float64 division bit for bit, at ties too."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from hotwheels.amct_pytorch.core import native, requantize
from hotwheels.amct_pytorch.core.accumulator import Accumulator, Deferred, Factors, Joined, Sum, Table
from hotwheels.amct_pytorch.core.params import QuantParams

pytestmark = pytest.mark.skipif(not native.has_integer_kernels(), reason="the compiled kernels are missing")


def grid(scale: float, offset: int) -> QuantParams:
    return QuantParams(scale=torch.tensor(scale), offset=torch.tensor(offset), num_bits=8)


def expected(real: Tensor, params: QuantParams) -> Tensor:
    """Returns the integers of float64 values, without the offset; torch alone."""
    limits = requantize.limits_of(params)
    return (real / params.scale.double()).round().clamp(limits.low, limits.high).float()


def check(x: Deferred, want: Tensor, params: QuantParams) -> None:
    x.may_be_nan = False
    assert torch.equal(requantize.to_integers(x, params), want)
    unsigned = requantize.to_unsigned(x, params)
    assert unsigned is not None
    assert unsigned.dtype is torch.uint8
    assert torch.equal(unsigned.float() + requantize.limits_of(params).low, want)


def integers(drawn: random.Random, *shape: int) -> Tensor:
    found = torch.randint(-(2**20), 2**20, shape, generator=torch.Generator().manual_seed(drawn.randrange(2**31)))
    found = found // drawn.choice([1, 500, 4000, 2**14])
    return found.to(drawn.choice([torch.float32, torch.float64])).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("seed", range(40))
def test_drawn_sums_of_accumulators(seed: int) -> None:
    drawn = random.Random(seed)
    channels = drawn.choice([1, 3, 16, 31, 255, 1023, 1024, 1500, 3000])
    shape = (drawn.randint(1, 2), channels, drawn.randint(1, 9), drawn.randint(1, 9))
    x, params = integers(drawn, *shape), grid(drawn.choice([0.1, 0.5, 2.0, 6 / 255]), drawn.randint(-128, 127))
    step = torch.rand(channels, 1, 1, dtype=torch.float64) if drawn.random() < 0.7 else torch.tensor(0.25).double()
    ends = drawn.choice([(-math.inf, math.inf), (0.0, math.inf), (0.0, 6.0)])
    bias = drawn.choice([None, torch.randn(channels, 1, 1, dtype=torch.float64)])
    real = x.double() * step + (0 if bias is None else bias)
    form = Sum(((x, step),), bias, ends)
    check(Deferred.by(x, lambda at: real.clamp(*ends)[at], form), expected(real.clamp(*ends), params), params)
    accumulator, factor = Accumulator.of(x, step), (step / params.scale.double()).float()
    limits = requantize.limits_of(params)
    want = (x.float() * factor).round().clamp(limits.low, limits.high)
    check(accumulator, want, params)


def test_every_tie_and_its_neighbours() -> None:
    params = grid(0.3, 5)
    scale = params.scale.double()
    ties = (torch.arange(-140, 140, dtype=torch.float64) + 0.5) * scale
    steps = torch.cat([ties, *(torch.nextafter(ties, torch.full_like(ties, end)) for end in (-math.inf, math.inf))])
    x = torch.ones(7, len(steps))
    want = expected(steps.expand(7, -1), params)
    assert want.unique().numel() > 250
    check(Deferred.by(x, lambda at: (x * steps)[at], Sum(((x, steps),))), want, params)


def test_values_far_beyond_the_grid() -> None:
    x = torch.tensor([[-(2.0**24), -5e6, -3.0, 0.0, 7.0, 1e7, 2.0**24]])
    for step in (1e-30, 1.0, 1e30, 1e300):
        real = x.double() * step
        params = grid(0.1, 0)
        form = Sum(((x, torch.tensor(step, dtype=torch.float64)),))
        check(Deferred.by(x, lambda at, real=real: real[at], form), expected(real, params), params)


@pytest.mark.parametrize("size", [5, 1024, 1025, 70_003])
def test_sums_products_tables_and_joined_tensors(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    a, b = (torch.randint(-128, 128, (2, size), generator=generator).float() for _ in range(2))
    first, second = torch.tensor(0.5).double(), torch.tensor(0.25).double()  # many ties
    params = grid(0.5, -7)
    total = (a.double() * first + b.double() * second).clamp(0, math.inf)
    form = Sum(((a, first), (b, second)), ends=(0.0, math.inf))
    check(Deferred.by(a, lambda at: total[at], form), expected(total, params), params)
    product = (a.double() * first) * (b.double() * second)
    check(Deferred.by(a, lambda at: product[at], Factors(((a, first), (b, second)))), expected(product, params), params)
    values = torch.randn(256, dtype=torch.float64, generator=generator) * 40
    results = values[(a + 128).long()]
    for indices, start in ((a, -128), ((a + 128).to(torch.uint8), 0)):
        table = Table(indices, start, values)
        check(Deferred.of_shape(a.shape, table.part, table), expected(results, params), params)
    joined = Joined(((a, first), (b, second)), 1)
    real = torch.cat([a.double() * first, b.double() * second], 1)
    check(Deferred.of_shape(real.shape, joined.part, joined), expected(real, params), params)


def test_the_multiplier_follows_the_step_and_the_grid() -> None:
    x, step = torch.full((2, 3), 40.0), torch.tensor(0.5).double()
    params = grid(1.0, 0)
    assert requantize.to_integers(Accumulator.of(x, step), params).unique().tolist() == [20.0]
    for scale, want in ((0.25, 10.0), (0.5, 20.0), (0.1, 4.0)):
        assert requantize.to_integers(Accumulator.of(x, torch.tensor(scale).double()), params).unique().tolist() == [
            want
        ]
    assert requantize.to_integers(Accumulator.of(x, step), grid(2.0, 0)).unique().tolist() == [10.0]


def test_values_that_may_be_nan_are_no_bytes() -> None:
    x, step = torch.ones(4, 4), torch.tensor(1.0).double()
    made = Deferred.by(x, lambda at: x.double()[at], Sum(((x, step),), torch.full((4,), math.nan).double()))
    assert requantize.to_unsigned(made, grid(1.0, 0)) is None
    assert requantize.to_integers(made, grid(1.0, 0)).isnan().all()


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1280, 7, 7), (3, 16, 112, 112), (1, 1, 1, 1)], ids=str)
def test_the_sums_of_a_global_pooling(shape: tuple[int, ...]) -> None:
    unsigned = torch.randint(0, 256, shape, dtype=torch.uint8)
    unsigned[0, 0] = 255
    limits = requantize.limits_of(grid(1.0, 37))
    for order in (torch.contiguous_format, torch.channels_last):
        found = requantize.sum_of_unsigned(unsigned.contiguous(memory_format=order), limits)
        assert found is not None
        sums, divisor = requantize.adaptive_avg_pool2d_sum(unsigned.float() + limits.low, 1, limits)
        assert torch.equal(found[0], sums)
        assert found[1].item() == divisor.item() == shape[2] * shape[3]
