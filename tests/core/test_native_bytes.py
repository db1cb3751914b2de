from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hotwheels.amct_pytorch.core import native
from hotwheels.amct_pytorch.core.native_bytes import look_up_bytes

pytestmark = pytest.mark.skipif(not native.is_there(), reason="needs the compiled kernels")

SIZES = [1, 63, 64, 65, 1023, 1024, 1025, 32_768, 70_003]


def unsigned(size: int) -> Tensor:
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("zero", [0, 128])
def test_bytes_are_looked_up(size: int, zero: int) -> None:
    x, table = unsigned(size), torch.randperm(256).float() - zero
    padded = torch.full((size + 1,), 77, dtype=torch.uint8)  # the last byte is not the kernel's
    look_up_bytes(x, padded[:size], table, zero)
    assert torch.equal(padded[:size], (table[x.long()] + zero).to(torch.uint8))
    assert padded[size] == 77


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "table",
    [
        torch.randperm(256).float() - 128,
        torch.randperm(256).float() - 30_000,
        torch.randperm(256).float() * 2,
        torch.randn(256),
        torch.full((256,), -5.0),
        torch.tensor([-0.0, 0.0] * 128),
        torch.tensor([math.nan, *range(255)]),
        torch.tensor([*range(255), math.inf]),
    ],
    ids=["integers", "far", "wide", "reals", "one", "zeros", "nan", "inf"],
)
def test_floats_are_looked_up_with_their_bits(size: int, table: Tensor) -> None:
    x, padded = unsigned(size), torch.full((size + 1,), 77.0)
    look_up_bytes(x, padded[:size], table)
    assert torch.equal(padded[:size].view(torch.int32), table[x.long()].view(torch.int32))
    assert padded[size] == 77
