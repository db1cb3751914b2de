"""The compiled kernels give what torch gives: values bit for bit, sums but for their last bits."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.core import affine, native
from hotwheels.amct_pytorch.core.host_memory import SETTINGS
from hotwheels.amct_pytorch.quantizers import UlqFakeQuantize, gradients
from hotwheels.amct_pytorch.quantizers.learned_range import learned_range

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
    values, dots = both(lambda: gradients._unfolded(weight, factor, inverse, scale, num_bits)), both(
        lambda: gradients._row_dots(g, weight, factor, inverse, scale, num_bits)
    )
    assert torch.equal(*values)
    torch.testing.assert_close(*dots, rtol=1e-5, atol=1e-5)


def test_sums_do_not_depend_on_the_number_of_threads():
    x, g = numbers(1_000_003, 0.02, 1), torch.randn(1_000_003)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(native.learned_range(x, g.clone(), 0.02, -1.0, 2.0))
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
    assert "Install a C compiler" in line
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
