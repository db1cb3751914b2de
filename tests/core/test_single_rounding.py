from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hotwheels.amct_pytorch.core import native, requantize
from hotwheels.amct_pytorch.core.params import QuantParams
from hotwheels.amct_pytorch.core.single_rounding import as_singles, round_to_singles

SPECIALS = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e300, -1e300, 1e-46, -1e-46, 1 + 2**-24, 1 + 3 * 2**-24, 1e-40]


def numbers(*shape: int) -> Tensor:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1e3
    x.view(-1)[: len(SPECIALS)] = torch.tensor(SPECIALS, dtype=torch.float64)[: x.numel()]
    return x


LAYOUTS = {
    "dense": lambda: numbers(3, 40_001),
    "small": lambda: numbers(2, 3),
    "empty": lambda: torch.empty(0, 3, dtype=torch.float64),
    "scalar": lambda: torch.tensor(0.1, dtype=torch.float64),
    "channels last": lambda: numbers(2, 5, 9, 7).contiguous(memory_format=torch.channels_last),
    "turned": lambda: numbers(2, 5, 9, 7).permute(0, 2, 1, 3),
    "gaps": lambda: numbers(2, 5, 9, 7)[:, :, ::2],
    "matrix with gaps": lambda: numbers(50, 9)[:, 1::2],
    "turned matrix": lambda: numbers(50, 9).t(),
    "single": lambda: numbers(50, 9).float(),
}


@pytest.mark.parametrize("has_kernels", [True, False], ids=["compiled", "torch"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_are_rounded_to_float32(layout: str, has_kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_kernels:
        monkeypatch.setattr(native, "_library", None)
    x = LAYOUTS[layout]()
    kept, expected = x.clone(), x.float().double()
    found = as_singles(x)
    assert found.dtype is torch.float64 and found.shape == x.shape
    assert torch.equal(found.contiguous().view(torch.int64), expected.contiguous().view(torch.int64))
    assert torch.equal(x.nan_to_num(7.0), kept.nan_to_num(7.0))
    assert found.data_ptr() != x.data_ptr() or not x.numel()
    if x.dtype is torch.float64:
        assert round_to_singles(x) is x
        assert torch.equal(x.contiguous().view(torch.int64), expected.contiguous().view(torch.int64))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("layout", [one for one in LAYOUTS if one != "single"])
def test_integers_of_plain_values_are_bit_exact(layout: str, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    params = QuantParams(scale=torch.tensor(0.3), offset=torch.tensor(-9), num_bits=bits)
    limits = requantize.limits_of(params)
    for x in (LAYOUTS[layout](), torch.round(LAYOUTS[layout]()) * params.scale.double() * 0.5):  # the second: many ties
        expected = (x / params.scale.double()).round().clamp(limits.low, limits.high).float()
        found = requantize.to_integers(x, params)
        assert found.dtype is torch.float32
        assert torch.equal(found.contiguous().view(torch.int32), expected.contiguous().view(torch.int32))
        with monkeypatch.context() as patch:
            patch.setattr(native, "_library", None)
            assert torch.equal(requantize.to_integers(x, params).nan_to_num(7.0), expected.nan_to_num(7.0))
