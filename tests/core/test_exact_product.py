"""Products are exact at every bit width and with every method, up to the bounds of float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hotwheels.amct_pytorch.core.exact_product import Range, matrix_product, weighted_product

_RANGES = {
    "8 bits": Range(-128, 127),
    "after ReLU": Range(0, 255),
    "16 bits": Range(-32768, 32767),
    "16 bits after ReLU": Range(0, 65535),
}


def _integers(low: int, high: int, *shape: int) -> torch.Tensor:
    return torch.randint(low, high + 1, shape).float()


@pytest.mark.parametrize("name", _RANGES)
@pytest.mark.parametrize("channels", [3, 64, 1024, 8192])  # one part, several parts, float64
def test_weighted_product_is_exact(name: str, channels: int) -> None:
    torch.manual_seed(0)
    limits = _RANGES[name]
    x, weight = _integers(limits.low, limits.high, 5, channels), _integers(-127, 127, 4, channels)
    found = weighted_product(F.linear, x, weight, None, limits, axis=-1, groups=1)[0]
    assert torch.equal(found.long(), x.long() @ weight.long().T)


@pytest.mark.parametrize("name", _RANGES)
def test_extreme_operands_are_exact(name: str) -> None:
    """All products have one sign and the largest size."""
    limits = _RANGES[name]
    for channels in (516, 517, 518, 1033, 4096):
        x, weight = torch.full((1, channels), float(limits.high)), torch.full((1, channels), 127.0)
        weight[0, 0] = 126.0
        found = weighted_product(F.linear, x, weight, None, limits, axis=-1, groups=1)[0]
        assert int(found) == limits.high * (127 * channels - 1)


@pytest.mark.parametrize("bias", [0, 1000, 2**24, -(2**31)])
@pytest.mark.parametrize("name", _RANGES)
def test_bias_is_part_of_the_exact_sum(name: str, bias: int) -> None:
    """On images: sums and bias are float32 as long as nothing can reach 2^24."""
    torch.manual_seed(0)
    limits = _RANGES[name]
    x, weight = _integers(limits.low, limits.high, 2, 6, 5, 4), _integers(-127, 127, 3, 6, 1, 1)
    biases = torch.tensor([float(bias), 7.0, -3.0], dtype=torch.float64)
    found, bound = weighted_product(F.conv2d, x, weight, biases, limits, axis=-3, groups=1)
    expected = F.conv2d(x.double(), weight.double(), biases)
    assert torch.equal(found.double(), expected)
    assert float(expected.abs().max()) <= bound
    assert found.dtype == (torch.float32 if bound < 2**24 else torch.float64)


@pytest.mark.parametrize("name", ["8 bits", "16 bits"])
@pytest.mark.parametrize("length", [7, 500, 5000])
def test_matrix_product_is_exact(name: str, length: int) -> None:
    limits = _RANGES[name]
    left, right = _integers(limits.low, limits.high, 2, 3, length), _integers(-128, 127, 2, length, 4)
    found = matrix_product(left, right, limits, Range(-128, 127))
    assert torch.equal(found.long(), left.long() @ right.long())


def test_bound_is_the_largest_partial_sum() -> None:
    weight = torch.tensor([[3.0, -5.0, 2.0], [1.0, 1.0, 1.0]])
    assert Range(0, 10).bound(weight) == 50  # the negative part alone
    assert Range(-4, 10).bound(weight) == 5 * 10 + 5 * 4


def test_reduced_precision_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    x, weight = _integers(0, 255, 2, 3), _integers(-127, 127, 2, 3)
    assert weighted_product(F.linear, x, weight, None, Range(0, 255), axis=-1, groups=1)[0].dtype == torch.float64
