"""Convolutions and products of integers against torch's, in int64 or float64 where every partial sum is exact."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.oracle import cube
from hotwheels.amct_pytorch.oracle.deploy_pair import Node
from hotwheels.amct_pytorch.oracle.ops.convolution import conv, conv_transpose


@dataclasses.dataclass(frozen=True)
class ConvCase:
    batch: int
    groups: int
    channels: int  # per group, in and out
    outputs: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right
    bits: int
    seed: int

    @property
    def attributes(self) -> dict[str, object]:
        return {"group": self.groups, "strides": self.stride, "dilations": self.dilation, "pads": self.pads}


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


CONV_CASES = st.builds(
    ConvCase,
    batch=st.integers(0, 2),
    groups=st.sampled_from([1, 2, 5]),
    channels=st.integers(1, 4),
    outputs=st.integers(1, 3),
    size=pairs(1, 9),
    kernel=pairs(1, 3),
    stride=pairs(1, 3),
    dilation=pairs(1, 2),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    bits=st.sampled_from([4, 8, 16]),
    seed=st.integers(0, 1000),
)


def random_integers(rng: np.random.Generator, bits: int, *shape: int) -> np.ndarray:
    return rng.integers(-(2**bits) + 1, 2**bits, size=shape)


@settings(max_examples=80, deadline=None)
@given(case=CONV_CASES)
def test_conv_is_exact(case: ConvCase) -> None:
    rng = np.random.default_rng(case.seed)
    x = random_integers(rng, case.bits, case.batch, case.groups * case.channels, *case.size)
    weight = random_integers(rng, 7, case.groups * case.outputs, case.channels, *case.kernel)
    top, left, bottom, right = case.pads
    padded = F.pad(torch.from_numpy(x).double(), (left, right, top, bottom))
    node = Node(name="conv", op_type="Conv", attributes=case.attributes)
    extent = [d * (k - 1) + 1 for d, k in zip(case.dilation, case.kernel, strict=True)]
    if padded.shape[2] < extent[0] or padded.shape[3] < extent[1]:
        with pytest.raises(ValueError, match="larger than the padded input"):
            cube._exact(node, x, weight)
        return
    expected = F.conv2d(
        padded, torch.from_numpy(weight).double(), stride=case.stride, dilation=case.dilation, groups=case.groups
    )
    np.testing.assert_array_equal(cube._exact(node, x, weight), expected.numpy())


@settings(max_examples=80, deadline=None)
@given(case=CONV_CASES, extra=pairs(0, 1))
def test_conv_transpose_is_exact(case: ConvCase, extra: tuple[int, int]) -> None:
    rng = np.random.default_rng(case.seed)
    extra = tuple(min(one, max(s, d) - 1) for one, s, d in zip(extra, case.stride, case.dilation, strict=True))
    pad = case.pads[:2]
    whole = [
        (n - 1) * s + d * (k - 1) + 1 + e - 2 * p
        for n, s, d, k, e, p in zip(case.size, case.stride, case.dilation, case.kernel, extra, pad, strict=True)
    ]
    if min(whole) < 1:
        return
    x = random_integers(rng, case.bits, max(case.batch, 1), case.groups * case.channels, *case.size)
    weight = random_integers(rng, 7, case.groups * case.channels, case.outputs, *case.kernel)
    node = Node(
        name="up", op_type="ConvTranspose", attributes={**case.attributes, "pads": pad * 2, "output_padding": extra}
    )
    expected = F.conv_transpose2d(
        torch.from_numpy(x).double(),
        torch.from_numpy(weight).double(),
        stride=case.stride,
        padding=pad,
        output_padding=extra,
        groups=case.groups,
        dilation=case.dilation,
    )
    np.testing.assert_array_equal(cube._exact(node, x, weight), expected.numpy())


@settings(max_examples=60, deadline=None)
@given(
    left=st.sampled_from([(), (1,), (3,), (2, 1), (2, 3)]),
    right=st.sampled_from([(), (3,), (2, 3)]),
    sizes=st.tuples(*[st.integers(1, 20)] * 3),
    bits=st.sampled_from([8, 16]),
    seed=st.integers(0, 1000),
)
def test_matmul_is_exact(
    left: tuple[int, ...], right: tuple[int, ...], sizes: tuple[int, int, int], bits: int, seed: int
) -> None:
    rng, (rows, inner, columns) = np.random.default_rng(seed), sizes
    a, b = random_integers(rng, bits, *left, rows, inner), random_integers(rng, bits, *right, inner, columns)
    expected = torch.matmul(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_array_equal(cube._exact(Node(name="m", op_type="MatMul"), a, b), expected)


@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm_is_exact(trans_a: int, trans_b: int) -> None:
    rng = np.random.default_rng(0)
    a, b = random_integers(rng, 16, 300, 4), random_integers(rng, 8, 300, 5)
    node = Node(name="fc", op_type="Gemm", attributes={"transA": trans_a, "transB": trans_b})
    found = cube._exact(node, a if trans_a else a.T, b.T if trans_b else b)
    np.testing.assert_array_equal(found, a.T @ b)


def test_sums_beyond_float32_are_exact() -> None:
    # 2^24 + 1 is the first integer which float32 does not hold.
    x, weight = np.array([[2**16, 1]]), np.array([[256], [1]])
    assert cube._exact(Node(name="m", op_type="MatMul"), x, weight).tolist() == [[2**24 + 1]]


def test_channels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 input"):
        conv(Node(name="c", op_type="Conv", attributes={"group": 2}), np.zeros((1, 3, 4, 4)), np.zeros((2, 2, 1, 1)))
    with pytest.raises(ValueError, match="3 input"):
        conv_transpose(Node(name="c", op_type="ConvTranspose"), np.zeros((1, 3, 4, 4)), np.zeros((2, 2, 1, 1)))
