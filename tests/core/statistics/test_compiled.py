"""The compiled statistics and searches of calibration are those of NumPy, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hotwheels.amct_pytorch.core import native
from hotwheels.amct_pytorch.core.search import ifmr, luq
from hotwheels.amct_pytorch.core.spec import QuantSpec
from hotwheels.amct_pytorch.core.statistics import compiled, grid_error
from hotwheels.amct_pytorch.core.statistics.range_statistics import RangeStatistics
from hotwheels.amct_pytorch.errors import CalibrationError

pytestmark = pytest.mark.skipif(not compiled.finds_least(), reason="the kernels could not be compiled here")

_Result = TypeVar("_Result")
EXACT = 1 << 17
SMALL = st.integers(1, 700) | st.sampled_from([4095, 4096, 4097, 9000, 65_536, 65_537, EXACT])
LARGE = st.sampled_from([EXACT + 1, 300_000, (1 << 20) + 1, 2_100_007, 5_000_001])
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda x: x,
    "relu": torch.relu,
    "relu6": lambda x: (x * 4).clamp(0, 6),
    "hardtanh": lambda x: (x * 3).clamp(-1, 1),
    "heavy": lambda x: x**5,
    "steps": lambda x: (x * 4).round() / 4,
    "negative": lambda x: -x.abs() - 3,
    "sparse": lambda x: torch.where(x > 2, x, 0.0),
    "halves": lambda x: torch.cat((x[: len(x) // 2] * 1e-3, x[len(x) // 2 :])),
    "sorted": lambda x: x.sort().values,
    "constant": lambda x: torch.full_like(x, -2.5),
    "zero": torch.zeros_like,
    "tiny": lambda x: x * 1e-38,
    "huge": lambda x: (x * 1e38).clamp(-3e38, 3e38),
}


def both(compute: Callable[[], _Result]) -> tuple[_Result, _Result]:
    """``compute()`` with and without kernels."""
    kernels = compute()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_library", None)
        return kernels, compute()


def data(kind: str, size: int, seed: int) -> Tensor:
    return KINDS[kind](torch.randn(size, generator=torch.Generator().manual_seed(seed)) * (1 + seed % 3))


def state(statistics: RangeStatistics) -> dict[str, Any]:
    histogram, values = statistics.histogram, statistics.values()
    return {
        "seen": (statistics.count, statistics.minimum, statistics.maximum),
        "bins": (histogram.first, histogram.exponent, list(histogram.atoms.items())),
        "counts": histogram.counts.tolist(),
        "tails": (statistics.smallest().tolist(), statistics.largest().tolist()),
        "values": None if values is None else values.tolist(),
    }


PARTS = st.lists(st.tuples(st.sampled_from(sorted(KINDS)), SMALL, st.integers(0, 9)), min_size=1, max_size=4)


def assert_same(parts: list[tuple[str, int, int]], options: dict[str, Any], spec: QuantSpec) -> None:
    batches = [data(*part) for part in parts]

    def observed() -> RangeStatistics:
        statistics = RangeStatistics(**options)
        for batch in batches:
            statistics.update(batch)
        return statistics

    ours, theirs = both(observed)
    assert state(ours) == state(theirs)
    grids = [[float(one) for one in vars(found).values()] for found in both(lambda: ifmr.search(ours, spec))]
    assert grids[0] == grids[1]
    scale = np.linspace(0.3, 1.4, 61) * max(1e-30, abs(ours.maximum), abs(ours.minimum)) / spec.qmax
    ends = np.full(61, float(spec.qmin)), np.full(61, float(spec.qmax))
    errors = both(lambda: grid_error.expected_errors(ours, scale, *ends))
    np.testing.assert_array_equal(*errors)


@example([("heavy", 65_537, 9), ("huge", 65_537, 7), ("tiny", 1, 4)], 0.6, False, 12)  # tiny / width is 0 in float32
@example([("hardtanh", 9000, 3), ("huge", 300, 4), ("zero", 9000, 5)], 0.999999, False, 16)  # 124 widths coarser
@settings(deadline=None, max_examples=100)
@given(PARTS, st.sampled_from([1.0, 0.999999, 0.99, 0.6]), st.booleans(), st.sampled_from([4, 8, 12, 16]))
def test_small_batches(parts: list[tuple[str, int, int]], percentile: float, symmetric: bool, num_bits: int) -> None:
    options = {"max_percentile": percentile, "min_percentile": percentile, "symmetric": symmetric}
    assert_same(parts, options, QuantSpec(num_bits=num_bits, symmetric=symmetric))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(KINDS)), SMALL | LARGE, st.integers(0, 9)), min_size=1, max_size=3),
    st.sampled_from([1.0, 0.999999, 0.9]),
    st.booleans(),
    st.sampled_from([0.3, 0.65, 1.2]),
)
def test_large_batches(parts: list[tuple[str, int, int]], percentile: float, symmetric: bool, start: float) -> None:
    options = {"max_percentile": percentile, "symmetric": symmetric, "tail_start": start}
    assert_same(parts, options, QuantSpec(symmetric=symmetric))


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("size", [100, 50_000, 3_000_000])
def test_the_bound_of_luq_is_the_same(kind: str, size: int) -> None:
    x = data(kind, size, 1)
    for spec in (QuantSpec(), QuantSpec(symmetric=True), QuantSpec(num_bits=16)):
        ours, theirs = both(lambda spec=spec: luq.batch_bound(x, spec))
        assert ours == theirs


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("size", "place"), [(5, 0), (5000, 4999), (300_000, 7), (300_001, 300_000)])
def test_the_refusal_is_the_same(bad: float, size: int, place: int) -> None:
    x = data("normal", size, 0)
    x[place] = bad

    def refusal() -> tuple[str, dict[str, Any]]:
        statistics = RangeStatistics()
        statistics.update(torch.ones(3))
        with pytest.raises(CalibrationError, match="NaN or infinite") as refused:
            statistics.update(x)
        return str(refused.value), state(statistics)

    ours, theirs = both(refusal)
    assert ours == theirs


def test_threads_change_nothing() -> None:
    before, x, found = torch.get_num_threads(), data("relu", 5_000_001, 3), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        statistics = RangeStatistics()
        statistics.update(x)
        found.append((state(statistics), float(ifmr.search(statistics, QuantSpec()).scale)))
    torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_copies_share_nothing_that_changes() -> None:
    statistics = RangeStatistics()
    statistics.update(data("normal", 300_000, 0))
    before, copied = state(statistics), statistics.copy()
    copied.update(data("heavy", 300_000, 1))
    assert state(statistics) == before
