"""Poolings against torch's."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.oracle.deploy_pair import Node
from hotwheels.amct_pytorch.oracle.ops.pooling import max_indices, max_pool, sum_pool


@dataclasses.dataclass(frozen=True)
class PoolCase:
    batch: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    share: tuple[int, int]  # padding is kernel // 2 at most
    dilation: tuple[int, int]
    ceil_mode: bool
    is_padding_counted: bool
    seed: int

    @property
    def padding(self) -> tuple[int, int]:
        return tuple(min(one, kernel // 2) for one, kernel in zip(self.share, self.kernel, strict=True))

    @property
    def x(self) -> np.ndarray:
        integers = np.random.default_rng(self.seed).integers(-300, 300, size=(self.batch, 3, *self.size))
        return integers.astype(np.float64)

    def fits(self, dilation: tuple[int, int]) -> bool:
        rows = zip(self.size, self.padding, dilation, self.kernel, strict=True)
        return all(size + 2 * pad >= step * (kernel - 1) + 1 for size, pad, step, kernel in rows)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


CASES = st.builds(
    PoolCase,
    batch=st.integers(1, 2),
    size=pairs(1, 11),
    kernel=pairs(1, 4),
    stride=pairs(1, 4),
    share=pairs(0, 2),
    dilation=pairs(1, 2),
    ceil_mode=st.booleans(),
    is_padding_counted=st.booleans(),
    seed=st.integers(0, 100),
)


@settings(max_examples=100, deadline=None)
@given(case=CASES)
def test_max_pool_is_torchs(case: PoolCase) -> None:
    if not case.fits(case.dilation):
        return
    attributes = {
        "kernel_shape": case.kernel,
        "strides": case.stride,
        "pads": case.padding * 2,
        "dilations": case.dilation,
        "ceil_mode": int(case.ceil_mode),
    }
    node = Node(name="pool", op_type="MaxPool", attributes=attributes)
    arguments = (case.kernel, case.stride, case.padding, case.dilation, case.ceil_mode)
    expected, indices = F.max_pool2d(torch.from_numpy(case.x), *arguments, return_indices=True)
    found = max_pool(node, case.x)
    np.testing.assert_array_equal(found, expected.numpy())
    if case.batch == 1 and np.isfinite(found).all():
        plane = case.size[0] * case.size[1]
        np.testing.assert_array_equal(max_indices(node, case.x, found) % plane, indices.numpy())


@settings(max_examples=100, deadline=None)
@given(case=CASES)
def test_average_pool_is_torchs(case: PoolCase) -> None:
    if not case.fits((1, 1)):
        return
    attributes = {
        "kernel_shape": case.kernel,
        "strides": case.stride,
        "pads": case.padding * 2,
        "ceil_mode": int(case.ceil_mode),
        "count_include_pad": int(case.is_padding_counted),
    }
    sums, divisors = sum_pool(Node(name="pool", op_type="AveragePool", attributes=attributes), case.x)
    arguments = (case.kernel, case.stride, case.padding, case.ceil_mode, case.is_padding_counted)
    expected = F.avg_pool2d(torch.from_numpy(case.x), *arguments).numpy()
    np.testing.assert_array_equal(sums, np.rint(sums))
    np.testing.assert_allclose(sums / divisors, expected, rtol=1e-15, atol=0)


def test_global_average_divides_by_the_plane() -> None:
    sums, divisors = sum_pool(Node(name="pool", op_type="GlobalAveragePool"), np.arange(12.0).reshape(1, 2, 2, 3))
    assert sums.tolist() == [[[[15.0]], [[51.0]]]]
    assert divisors.tolist() == [[[[6.0]]]]


def test_window_far_beyond_the_input_takes_no_memory_for_what_is_padding() -> None:
    x = np.arange(6.0 * 7 * 7).reshape(2, 3, 7, 7) - 100
    attributes = {"kernel_shape": (100_000, 100_000), "strides": (100_000, 100_000), "ceil_mode": 1}
    sums, divisors = sum_pool(Node(name="pool", op_type="AveragePool", attributes=attributes), x)
    expected = F.avg_pool2d(torch.from_numpy(x), 100_000, ceil_mode=True).numpy()
    np.testing.assert_array_equal(sums, x.sum((2, 3), keepdims=True))
    np.testing.assert_array_equal(sums / divisors, expected)
    maxima = max_pool(Node(name="pool", op_type="MaxPool", attributes=attributes), x)
    np.testing.assert_array_equal(maxima, x.max((2, 3), keepdims=True))
