"""The compiled kernels compute the same as torch: values bit for bit, sums except for their last bits."""

import functools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.core import affine, native, requantize
from hotwheels.amct_pytorch.core.accumulator import Accumulator, Deferred, Factors, Sum, Table
from hotwheels.amct_pytorch.core.exact_product import row_sums
from hotwheels.amct_pytorch.core.host_memory import SETTINGS
from hotwheels.amct_pytorch.core.params import QuantParams
from hotwheels.amct_pytorch.core.statistics.extremes import row_extremes
from hotwheels.amct_pytorch.export.quantized_constants import WeightIntegers
from hotwheels.amct_pytorch.nn.double_call import defer
from hotwheels.amct_pytorch.ops.registry import Registry
from hotwheels.amct_pytorch.quantizers import UlqFakeQuantize
from hotwheels.amct_pytorch.quantizers.learning import gradients
from hotwheels.amct_pytorch.quantizers.learning.learned_range import learned_range
from hotwheels.amct_pytorch.record.record import WeightRecord

pytestmark = pytest.mark.skipif(native._library is None, reason="kernels.c could not be compiled here")

SIZES = st.integers(0, 70) | st.sampled_from([255, 256, 257, 32768, 32769, 100_003])
STEPS = st.floats(2.0**-20, 100.0, width=32)


def numbers(size, step, seed, specials=()):
    """Values of some hundred steps, ties among them, and ``specials`` at random places."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, generator=generator) * 60 * step
    x[::3] = (torch.randint(-300, 300, (len(x[::3]),), generator=generator) + 0.5) * step
    for special in specials if size else ():
        x[torch.randint(size, (1,), generator=generator)] = special
    return x


def both(compute):
    """``compute()`` with and without kernels."""
    kernels = compute()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_library", None)
        return kernels, compute()


@settings(deadline=None, max_examples=60)
@given(SIZES, STEPS, st.integers(-128, 127), st.sampled_from([4, 8, 12, 16]), st.integers(0, 9))
def test_fake_quantize_is_bit_exact(size, step, offset, num_bits, seed):
    x = numbers(size, step, seed, (float("inf"), float("-inf"), -0.0, 1e38, 1e-40))
    grid = torch.tensor(step), torch.tensor(offset, dtype=torch.int32), num_bits
    ours, theirs = both(lambda: affine.fake_quantize_and_look(x, *grid))
    assert torch.equal(ours[0], theirs[0])
    assert not ours[1] and not theirs[1]
    assert torch.equal(affine.fake_quantize(x, *grid, out=x), theirs[0])  # in place


@pytest.mark.parametrize("place", [0, 13, 40_000, 70_000])
def test_nan_is_seen_and_stays(place):
    x = numbers(70_001, 0.1, 0)
    x[place] = float("nan")
    grid = torch.tensor(0.1), torch.tensor(3, dtype=torch.int32), 8
    for result, has_nan in both(lambda: affine.fake_quantize_and_look(x, *grid)):
        assert has_nan
        assert result.isnan().nonzero().tolist() == [[place]]


@settings(deadline=None, max_examples=60)
@given(SIZES, st.integers(0, 9), st.sampled_from([0.2, 1.0, 3.0]), st.booleans())
def test_learned_range_is_the_same(size, seed, wide, has_infinities):
    x = numbers(size, wide / 127, seed, (float("inf"), float("-inf")) if has_infinities else ())
    g = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    quantizer = UlqFakeQuantize(clip_max=1.0, clip_min=-0.5)
    ends = quantizer.clip_min, quantizer.clip_max

    def grads():
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(learned_range(leaf, *ends, quantizer.params()), (leaf, *ends), g)

    ours, theirs = both(grads)
    assert torch.equal(ours[0], theirs[0])
    size_of_sums = float(g.double().abs().sum()) + 1  # what float32 sums are measured by
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        assert abs(float(one - other)) <= 2.0**-22 * size_of_sums


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(0, 300), st.booleans(), st.sampled_from([4, 8]), st.integers(0, 9))
def test_unfolded_weights_are_the_same(rows, size, has_one_scale, num_bits, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, size, generator=generator)
    factor = torch.randn(rows, generator=generator)
    factor[0] = 0.0
    inverse = torch.where(factor == 0, 0.0, 1 / factor)
    scale = torch.tensor(0.01) if has_one_scale else torch.rand(rows, generator=generator) / 50 + 1e-4
    g = torch.randn(rows, size, generator=generator)
    values, dots = (
        both(lambda: gradients._unfolded(weight, factor, inverse, scale, num_bits)),
        both(lambda: gradients._row_dots(g, weight, factor, inverse, scale, num_bits)),
    )
    assert torch.equal(*values)
    torch.testing.assert_close(*dots, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200), st.integers(1, 90), st.integers(0, 3), st.integers(0, 9))
def test_row_extremes_are_bit_exact(rows, size, specials, seed):
    x = numbers(rows * size, 0.1, seed, (float("nan"), float("inf"), float("-inf"))[:specials]).view(rows, size)
    ours, theirs = both(lambda: row_extremes(x))
    assert torch.equal(torch.stack(ours).nan_to_num(9e9), torch.stack(theirs).nan_to_num(9e9))


def test_extremes_of_no_row():
    assert [one.shape for one in row_extremes(torch.empty(0, 5))] == [(0,), (0,)]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([(5, 3, 3, 3), (8, 70), (9,)]), st.booleans(), st.sampled_from([4, 8]), st.integers(0, 9))
def test_integers_of_weights_are_bit_exact(shape, has_one_scale, num_bits, seed):
    weight = numbers(math.prod(shape), 0.01, seed).numpy().reshape(shape)
    scale = (0.01,) if has_one_scale else tuple(float(s) for s in np.linspace(0.01, 0.5, shape[0]).astype(np.float32))
    record = WeightRecord(scale=scale, num_bits=num_bits)
    ours, theirs = both(lambda: WeightIntegers.of(weight, record, 0).all())
    assert ours.dtype == theirs.dtype == np.int8
    np.testing.assert_array_equal(ours, theirs)


def test_sums_do_not_depend_on_the_number_of_threads():
    x, g = numbers(1_000_003, 0.02, 1), torch.randn(1_000_003)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(native.learned_range(x, g, torch.empty_like(g), 0.02, -1.0, 2.0))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    "other",
    [torch.zeros(4).double(), torch.zeros(4, 4)[:, ::2], torch.zeros(2, 2).t(), torch.zeros(4, device="meta")],
    ids=["float64", "gaps", "transposed", "another device"],
)
def test_other_tensors_are_left_to_torch(other):
    assert not native.handles(other)


def test_missing_kernels_are_reported_once(log_lines, monkeypatch):
    monkeypatch.setattr(native, "_library", None)
    native._tell_missing.cache_clear()
    assert not native.handles(torch.zeros(100))
    assert not log_lines.lines  # nobody would feel it
    for _ in range(2):
        assert not native.handles(torch.zeros(100_000))
    (line,) = log_lines.warnings
    assert "The compiled kernels" in line
    assert "a C compiler" in line
    native._tell_missing.cache_clear()


def test_the_kernels_can_be_switched_off():
    code = "from hotwheels.amct_pytorch.core import native; print(native._library)"
    found = subprocess.run([sys.executable, "-c", code], env={native.SWITCH: "1"}, capture_output=True, text=True)
    assert found.stdout.strip() == "None", found.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
@pytest.mark.parametrize("setting", [None, *SETTINGS])
def test_freed_memory_is_kept_unless_the_user_has_decided(setting):
    code = "from hotwheels.amct_pytorch.core.host_memory import keep_freed_memory as k; print(k())"
    env = {} if setting is None else {setting: "131072" if setting.endswith("_") else ""}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert found.stdout.strip() == str(setting is None), found.stderr


def accumulators(shape, wide, seed):
    """Integer sums, among them ties and zeros; above 2^24 if they are float64."""
    generator = torch.Generator().manual_seed(seed)
    sums = torch.randint(-(2**24) + 1, 2**24, shape, generator=generator).double() * (37 if wide else 1)
    sums.view(-1)[::5] = torch.arange(len(sums.view(-1)[::5])) - 7.0
    return sums if wide else sums.float()


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 5), (2, 7, 300), (2, 5, 6, 7), (1, 64, 1, 1), (4, 300, 11, 13)], ids=str)
@pytest.mark.parametrize("is_per_channel", [False, True])
def test_requantization_is_bit_exact(shape, wide, is_per_channel):
    sums, generator = accumulators(shape, wide, 1), torch.Generator().manual_seed(2)
    if len(shape) == 4:
        sums = sums.contiguous(memory_format=torch.channels_last)
    channels = (shape[1], 1, 1) if len(shape) == 4 else (shape[-1],)
    step = torch.rand(channels if is_per_channel else (), generator=generator, dtype=torch.float64) * 2.0**-14
    step.view(-1)[0] = 0.25  # ties
    for offset, bits in ((-128, 8), (0, 8), (17, 8), (-3000, 16)):
        params = QuantParams(scale=torch.tensor(0.5), offset=torch.tensor(offset), num_bits=bits)
        values = Accumulator.of(sums, step)
        clamped = [defer(one(), (values,), {}, Registry().find_module(one)) for one in (torch.nn.ReLU, torch.nn.ReLU6)]
        for x in (values, *clamped):
            ours, theirs = both(functools.partial(requantize.to_integers, x, params))
            assert torch.equal(ours, theirs)
            assert ours.stride() == theirs.stride()


@pytest.mark.parametrize("size", [1, 17, 32768, 100_003])
@pytest.mark.parametrize("ends", [(-math.inf, math.inf), (0.0, math.inf), (0.0, 6.0)], ids=str)
def test_the_requantized_sum_is_bit_exact(size, ends):
    a, b = (numbers(size, 1.0, seed).round().clamp(-255, 255) for seed in (0, 1))
    steps = torch.tensor(0.37).double(), torch.tensor(0.011).double()
    form = Sum(((a, steps[0]), (b, steps[1])), ends=ends)
    values = Deferred.by(a, lambda at: (a[at].double() * steps[0] + b[at].double() * steps[1]).clamp(*ends), form)
    for offset in (-128, 0, 40):
        params = QuantParams(scale=torch.tensor(0.74), offset=torch.tensor(offset), num_bits=8)
        ours, theirs = both(functools.partial(requantize.to_integers, values, params))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(3, 5), (2, 7, 300), (2, 5, 6, 7), (4, 300, 11, 13)], ids=str)
def test_sums_with_a_bias_are_requantized_bit_exactly(shape):
    sums, generator = accumulators(shape, False, 1), torch.Generator().manual_seed(3)
    channels = (shape[1], 1, 1) if len(shape) == 4 else (shape[-1],)
    if len(shape) == 4:
        sums = sums.contiguous(memory_format=torch.channels_last)
    bias = torch.randn(channels, generator=generator, dtype=torch.float64)
    step = torch.rand((), generator=generator, dtype=torch.float64) * 2.0**-14
    values = Deferred.by(sums, lambda at: sums[at].double() * step + bias, Sum(((sums, step),), bias))
    params = QuantParams(scale=torch.tensor(0.5), offset=torch.tensor(3), num_bits=8)
    ours, theirs = both(functools.partial(requantize.to_integers, values, params))
    assert torch.equal(ours, theirs)
    assert torch.equal(ours, (values.whole() / 0.5).round().clamp(-131, 124).float())


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("gate", [(3, 40, 1, 1), (3, 40, 9, 31)], ids=str)
def test_the_requantized_product_is_bit_exact(order, gate):
    generator = torch.Generator().manual_seed(4)
    a = torch.randint(-128, 128, (3, 40, 9, 31), generator=generator).float().contiguous(memory_format=order)
    b = torch.randint(0, 256, gate, generator=generator).float().contiguous(memory_format=order)
    terms = (a, torch.tensor(0.37).double()), (b, torch.tensor(0.011).double())
    part = lambda at: (a[at].double() * terms[0][1]) * (b[at].double() * terms[1][1])  # noqa: E731
    params = QuantParams(scale=torch.tensor(0.407), offset=torch.tensor(-5), num_bits=8)
    want = (part(...) / params.scale.double()).round().clamp(-123, 132).float()
    ours, theirs = both(functools.partial(requantize.to_integers, Deferred.by(a, part, Factors(terms)), params))
    assert torch.equal(ours, want)
    assert torch.equal(theirs, want)
    assert ours.stride() == a.stride()


@pytest.mark.parametrize("offset", [-128, 0, 17])
def test_looked_up_integers_are_bit_exact(offset):
    limits = requantize.limits_of(QuantParams(scale=torch.tensor(1.0), offset=torch.tensor(offset), num_bits=8))
    x = torch.randint(limits.low, limits.high + 1, (3, 70_001), generator=torch.Generator().manual_seed(5)).float()
    points = torch.arange(limits.low, limits.high + 1, dtype=torch.float64)
    table = Table(x, limits.low, torch.nn.functional.silu(points * 0.05))
    params = QuantParams(scale=torch.tensor(0.013), offset=torch.tensor(-100), num_bits=8)
    ours, theirs = both(functools.partial(requantize.to_integers, Deferred.by(x, table.part, table), params))
    want = (torch.nn.functional.silu(x.double() * 0.05) / params.scale.double()).round().clamp(-28, 227).float()
    assert torch.equal(ours, want)
    assert torch.equal(theirs, want)


@pytest.mark.parametrize("shape", [(1, 1), (3, 300), (5, 70_000), (0, 4)], ids=str)
def test_row_sums_are_exact(shape):
    rows = torch.randint(-128, 128, shape, dtype=torch.int8)
    rows[:1] = -128
    ours, theirs = both(lambda: row_sums(rows))
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def test_bytes_are_exact():
    x = torch.arange(-128.0, 128.0).repeat(300)
    assert torch.equal(native.to_bytes(x, 128), (x + 128).to(torch.uint8))
