"""A fingerprint tells every change of a tensor, however the change was made."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hotwheels.amct_pytorch.core import native
from hotwheels.amct_pytorch.core.fingerprint import fingerprint

pytestmark = pytest.mark.skipif(not native.is_there(), reason="the compiled kernels are missing")


def test_equal_tensors_have_equal_fingerprints() -> None:
    x = torch.randn(5, 7)
    assert fingerprint([x, None]) == fingerprint([x.clone(), None])
    assert fingerprint([x.t(), None]) == fingerprint([x.t().clone(), None])


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 128, 1000])
def test_every_bit_counts(size: int) -> None:
    x = torch.randn(size)
    found = {fingerprint([x])}
    bits = x.view(torch.int32)
    for index in range(0, size, max(1, size // 37)):
        for bit in range(32):
            change = -(2**31) if bit == 31 else 1 << bit
            bits[index] ^= change
            found.add(fingerprint([x]))
            bits[index] ^= change
    assert len(found) == 1 + 32 * len(range(0, size, max(1, size // 37)))


def test_changed_signs_do_not_cancel() -> None:
    x = torch.randn(4096)
    signs = [torch.ones(4096)]
    for start in (0, 1):
        for distance in (1, 2, 32, 63, 64, 65, 128):
            signs.append(torch.ones(4096))
            signs[-1][start::distance] = -1.0
    kinds = {tuple(one.tolist()) for one in signs}
    assert len({fingerprint([x * torch.tensor(one)]) for one in kinds}) == len(kinds)


def test_order_shape_type_and_absence_count() -> None:
    x, y = torch.zeros(4, 4), torch.ones(4, 4)
    tensors = ([x, y], [y, x], [x, None, y], [x, y.reshape(2, 8)], [x, y.int()], [torch.cat([x, y])], [x], [x, x])
    assert len({fingerprint(one) for one in tensors}) == len(tensors)


@pytest.mark.parametrize("size", [10, 100_000])
def test_writes_that_no_counter_sees_are_noticed(size: int) -> None:
    x = nn.Parameter(torch.randn(size))
    found = [fingerprint([x])]
    x.data[-1] += 1.0
    found.append(fingerprint([x]))
    x.detach().numpy()[0] -= 3.0
    found.append(fingerprint([x]))
    x.data = x.data * 2
    found.append(fingerprint([x]))
    assert len(set(found)) == 4


def test_a_tensor_with_gaps_is_copied() -> None:
    x = torch.randn(6, 8)
    before = fingerprint([x[:, ::2]])
    x[:, 1::2] += 1.0
    assert fingerprint([x[:, ::2]]) == before
    x[3, 2] += 1.0
    assert fingerprint([x[:, ::2]]) != before
