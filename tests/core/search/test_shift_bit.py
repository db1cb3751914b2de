import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.core.search.shift_bit import best_shift, search_shift, shift_errors


def errors_reference(values, deq):
    """spec 4.6 for one scale: the errors of N = 1..16."""
    s32 = np.clip(np.rint(values.astype(np.float64) / deq), -(2**31), 2**31 - 1).astype(np.int64)
    errors = []
    for shift in range(1, 17):
        s16 = np.clip(s32 >> shift, -(2**15), 2**15 - 1)
        errors.append(float(((s32 - (s16 << shift)) ** 2).astype(np.float64).sum()))
    return np.array(errors)


def test_scalar_equals_reference():
    output = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 100
    expected = errors_reference(output.numpy().ravel(), np.float64(np.float32(1e-4)))
    np.testing.assert_allclose(shift_errors(output, torch.tensor(1e-4)).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (7, 3), (1, 3, 300, 200)])
def test_channels_equal_reference(shape):
    output = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 100
    deq = torch.tensor([1e-4, 1e-6, 1.0])
    got = shift_errors(output, deq)
    assert got.shape == (3, 16)
    for channel in range(3):
        expected = errors_reference(output[:, channel].numpy().ravel(), deq.double()[channel].item())
        np.testing.assert_allclose(got[channel].numpy(), expected, rtol=1e-12)


def test_ties_go_to_the_larger_shift():
    """Multiples of 2^16 lose nothing under any shift that does not clip."""
    assert int(search_shift(torch.zeros(1, 4), torch.tensor(1.0))) == 16
    assert int(search_shift(torch.full((1, 4), 3.0 * 2**16), torch.tensor(1.0))) == 16
    assert best_shift(torch.tensor([1.0] * 16)).item() == 16
    assert best_shift(torch.tensor([[0.0, 0.0] + [1.0] * 14])).tolist() == [2]


@pytest.mark.parametrize(("peak", "shift"), [(2**15 + 1, 1), (2**17 - 1, 2), (2**31 - 1, 16)])
def test_smallest_shift_without_clipping_wins(peak, shift):
    output = torch.arange(1, 2000, dtype=torch.float64) / 1999 * peak
    assert int(search_shift(output.reshape(1, -1), torch.tensor(1.0))) == shift


def test_errors_of_batches_add_up():
    output = torch.randn(4, 3, 8) * 1000
    deq = torch.tensor([0.01, 0.1, 1.0])
    parts = shift_errors(output[:1], deq) + shift_errors(output[1:], deq)
    torch.testing.assert_close(parts, shift_errors(output, deq))


@pytest.mark.parametrize("size", [1.0, 1e3, 3e4, 1e5, 1e7, 1e9, 1e11])
@pytest.mark.parametrize("step", [1.0, 4.0, 65536.0])
def test_search_looks_at_enough_shifts(size: float, step: float) -> None:
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(3, 8, 50, generator=generator) * size
    output[0, :, 0] *= 20  # an outlier, which may be clipped
    output = torch.round(output / step) * step
    deq = torch.linspace(0.5, 2.0, 8)
    assert torch.equal(search_shift(output, deq), best_shift(shift_errors(output, deq)))
    assert torch.equal(search_shift(output, deq[0]), best_shift(shift_errors(output, deq[0])))


def exact_shift(values: list[int]) -> int:
    """spec 4.6 in Python's integers, which neither overflow nor round."""
    errors = {}
    for shift in range(1, 17):
        rounded = (min(max(value >> shift, -(2**15)), 2**15 - 1) << shift for value in values)
        errors[shift] = sum((value - other) ** 2 for value, other in zip(values, rounded, strict=True))
    return max(shift for shift, error in errors.items() if error == min(errors.values()))


@st.composite
def accumulators(draw: st.DrawFn) -> list[int]:
    """Values of one channel, the largest of which is next to a power of two more often than not, or multiples of one.

    There the decision is close: shift F clips nothing, F - 1 a little, and F + 1 may lose nothing either.
    """
    bits = draw(st.integers(1, 31))
    top = 2**bits + draw(st.integers(-(2 ** max(0, bits - 12)), 2 ** max(0, bits - 12)))
    size = draw(st.sampled_from([0, 1, top // 1000, top]))
    values = draw(st.lists(st.integers(-size, size), max_size=150))
    values.append(top if draw(st.booleans()) else -top)
    unit = 2 ** draw(st.sampled_from([0, 0, 0, 1, 5, 15, 17]))
    return [min(max(value // unit * unit, -(2**31)), 2**31 - 1) for value in values]


@settings(max_examples=400, deadline=None)
@given(st.lists(accumulators(), min_size=1, max_size=4))
def test_search_finds_the_exact_optimum(channels: list[list[int]]) -> None:
    length = max(map(len, channels))
    # Shorter channels are filled with zeros, which add the error 0 to every shift.
    rows = [channel + [0] * (length - len(channel)) for channel in channels]
    output = torch.tensor(rows, dtype=torch.float64)
    expected = [exact_shift(row) for row in rows]
    per_image = output.t().reshape(length, len(rows), 1, 1)
    per_pixel = output.reshape(1, len(rows), 1, length)
    ones = torch.ones(len(rows))
    assert search_shift(per_image, ones).tolist() == expected
    assert search_shift(per_pixel, ones).tolist() == expected
    assert int(search_shift(output[:1], torch.tensor(1.0))) == expected[0]
