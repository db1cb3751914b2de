"""RangeStatistics against sorting everything."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.core.statistics.range_statistics import RangeStatistics, rank
from hotwheels.amct_pytorch.core.statistics.sampling import EXACT_SIZE, flat_view
from hotwheels.amct_pytorch.errors import CalibrationError

FLOATS = st.floats(-1e6, 1e6, width=32)
BATCHES = st.lists(st.lists(FLOATS, min_size=1, max_size=40), min_size=1, max_size=6)


def observed(*batches, **options):
    statistics = RangeStatistics(**options)
    for batch in batches:
        statistics.update(batch)
    return statistics


def kth_bounds(values, percentile):
    """The definition: sort, take the k-th."""
    ordered = np.sort(values.astype(np.float64).ravel())
    k = ordered.size - int(percentile * ordered.size)
    k = 1 if 1 - percentile < 2**-23 else max(k, 1)
    return min(0.0, ordered[k - 1]), max(0.0, ordered[-k])


def total(statistics):
    histogram = statistics.histogram
    return (
        histogram.counts.sum() + sum(histogram.atoms.values()) + statistics.largest().size + statistics.smallest().size
    )


@pytest.mark.parametrize(
    ("percentile", "count", "k"),
    [(1.0, 5, 1), (1 - 2**-24, 10**9, 1), (0.999999, 1, 1), (0.999999, 1000, 1), (0.9, 20, 2), (0.75, 4, 1)],
)
def test_rank(percentile, count, k):
    assert rank(percentile, count) == k


@settings(deadline=None, max_examples=60)
@given(BATCHES, st.sampled_from([1.0, 0.999999, 0.9, 0.51]))
def test_small_batches_give_exact_bounds_and_counts(batches, percentile):
    statistics = observed(*map(torch.tensor, batches), max_percentile=percentile, min_percentile=percentile)
    everything = np.concatenate(batches).astype(np.float32)
    assert statistics.count == everything.size
    assert (statistics.minimum, statistics.maximum) == (everything.min(), everything.max())
    assert (statistics.lower_bound(), statistics.upper_bound()) == kth_bounds(everything, percentile)
    assert total(statistics) == everything.size


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 3000), FLOATS, st.floats(-30, 10)), min_size=2, max_size=6))
def test_merging_equals_seeing_everything(parts):
    """Batches of different size, centre and spread; in one statistic, or in two that are merged."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(n, generator=generator) * 2.0**spread + centre for n, centre, spread in parts]
    together = observed(*batches)
    first, second = observed(*batches[::2]), observed(*batches[1::2])
    first.merge(second)
    assert first.count == together.count
    assert (first.minimum, first.maximum) == (together.minimum, together.maximum)
    np.testing.assert_array_equal(first.largest(), together.largest())
    everything = torch.cat(batches).numpy()
    np.testing.assert_array_equal(first.largest(), np.sort(everything)[-first.largest().size :])
    assert (first.lower_bound(), first.upper_bound()) == kth_bounds(everything, 0.999999)
    assert total(first) == pytest.approx(everything.size)


def test_merge_of_histograms_is_exact():
    """On equal grids the sums are equal; on different ones after coarsening."""
    wide, narrow = torch.randn(5000) * 100, torch.randn(5000)
    one, two = observed(wide), observed(narrow)
    one.merge(two)
    other_way = observed(narrow)
    other_way.merge(observed(wide))
    edges, density = one.histogram.densities()
    other_edges, other_density = other_way.histogram.densities()
    np.testing.assert_array_equal(edges, other_edges)
    np.testing.assert_array_equal(density, other_density)


@pytest.mark.parametrize("size", [3, 5000])
def test_statistics_survive_pickle(size):
    """Processes send them to each other."""
    statistics = observed(torch.randn(size), torch.randn(size) * 3)
    copied = pickle.loads(pickle.dumps(statistics))
    assert (copied.count, copied.minimum, copied.maximum) == (statistics.count, statistics.minimum, statistics.maximum)
    assert (copied.lower_bound(), copied.upper_bound()) == (statistics.lower_bound(), statistics.upper_bound())
    for part, expected in zip(copied.densities(), statistics.densities(), strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("size", [1, 1000, EXACT_SIZE + 5, 3 * EXACT_SIZE + 1])
def test_non_finite_values_are_refused(bad, size):
    x = torch.zeros(size)
    x[size // 2] = bad
    statistics = observed(torch.ones(3))
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        statistics.update(x)
    assert statistics.count == 3


def test_non_finite_value_in_the_odd_rest_is_refused_before_anything_is_taken():
    x = torch.zeros(2 * EXACT_SIZE + 1)
    x[-1] = float("nan")
    statistics = RangeStatistics()
    with pytest.raises(CalibrationError):
        statistics.update(x)
    assert statistics.count == 0


def test_nothing_seen():
    statistics = observed(torch.empty(0))
    assert (statistics.count, statistics.lower_bound(), statistics.upper_bound()) == (0, 0.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_count_as_float32(dtype):
    x = torch.randn(3 * EXACT_SIZE).to(dtype)
    assert observed(x).upper_bound() == observed(x.float()).upper_bound()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(1, 3),
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x[:, ::2],
        lambda x: x[:1, :, :1].expand(3, -1, 8, -1),
    ],
    ids=["transposed", "channels_last", "sliced", "expanded"],
)
def test_layout_does_not_matter(view):
    x = view(torch.randn(2, 8, 6, 5))
    flat = flat_view(x)
    torch.testing.assert_close(flat.sort().values, x.reshape(-1).sort().values, rtol=0, atol=0)
    assert observed(x).upper_bound() == observed(x.contiguous()).upper_bound()


def test_dense_layouts_are_not_copied():
    x = torch.randn(2, 8, 6, 5)
    for view in (x, x.transpose(1, 3), x.to(memory_format=torch.channels_last)):
        assert flat_view(view).data_ptr() == view.data_ptr()


LARGE = {
    "normal": lambda x: x,
    "relu": lambda x: x.relu(),
    "relu6": lambda x: (x * 4).clamp(0, 6),
    "heavy": lambda x: x**5,
    "uniform": lambda x: torch.special.ndtr(x),
    "constant": lambda x: torch.full_like(x, -2.5),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("size", [1 << 18, (1 << 20) + 77])
def test_large_tensors_keep_exact_extremes_and_all_the_mass(name, size):
    x = LARGE[name](torch.randn(size, generator=torch.Generator().manual_seed(3)))
    statistics = observed(x, x * 1.1, torch.ones(7))
    everything = torch.cat((x, x * 1.1, torch.ones(7))).numpy()
    ordered = np.sort(everything)
    np.testing.assert_array_equal(statistics.largest(), ordered[-128:])
    np.testing.assert_array_equal(statistics.smallest(), ordered[:128])
    assert (statistics.lower_bound(), statistics.upper_bound()) == kth_bounds(everything, 0.999999)
    assert total(statistics) == pytest.approx(everything.size)


@pytest.mark.parametrize("percentile", [0.999, 0.99, 0.9])
@pytest.mark.parametrize("name", ["normal", "relu", "relu6", "uniform"])
def test_low_percentiles_are_within_a_thousandth_of_the_range(name, percentile):
    generator = torch.Generator().manual_seed(4)
    batches = [LARGE[name](torch.randn(1 << 19, generator=generator)) for _ in range(2)]
    statistics = observed(*batches, max_percentile=percentile, min_percentile=percentile)
    everything = torch.cat(batches).numpy()
    expected = kth_bounds(everything, percentile)
    tolerance = 0.001 * float(np.ptp(everything))
    assert statistics.lower_bound() == pytest.approx(expected[0], abs=tolerance)
    assert statistics.upper_bound() == pytest.approx(expected[1], abs=tolerance)


def test_memory_does_not_grow_with_batches():
    statistics = observed(torch.randn(1 << 16), torch.randn(1))
    sizes = set()
    for i in range(20):
        statistics.update(torch.randn(4000) * (i + 1))
        sizes.add(len(pickle.dumps(statistics)) // 1000)
    assert len(sizes) == 1


def test_tiny_and_huge_values():
    x = torch.tensor([1e-38, -3e38, 3e38, 1e-45] * 1000)
    statistics = observed(x)
    assert (statistics.lower_bound(), statistics.upper_bound()) == (float(x.min()), float(x.max()))
    assert total(statistics) == 4000
