from __future__ import annotations

import pytest
import torch
from torch import nn

from hotwheels.amct_pytorch.core import int8_product, requantize
from hotwheels.amct_pytorch.core.params import QuantParams
from hotwheels.amct_pytorch.nn.layer_weight import FrozenWeight
from hotwheels.amct_pytorch.nn.prepared_weight import prepared
from hotwheels.amct_pytorch.nn.weighted_op import WeightedOp
from hotwheels.amct_pytorch.ops.desc import Role

CASES = {
    "conv": (lambda: nn.Conv2d(32, 40, 3, stride=2, padding=1), Role.CONV, (2, 32, 33, 17)),
    "same": (lambda: nn.Conv2d(16, 24, (2, 3), padding="same"), Role.CONV, (2, 16, 21, 20)),
    "reflect": (lambda: nn.Conv2d(16, 24, 3, padding=1, padding_mode="reflect"), Role.CONV, (2, 16, 21, 20)),
    "depthwise": (lambda: nn.Conv2d(32, 32, 5, padding=2, groups=32, bias=False), Role.CONV, (2, 32, 33, 17)),
    "groups": (lambda: nn.Conv2d(32, 48, 3, groups=4), Role.CONV, (2, 32, 33, 17)),
    "conv1d": (lambda: nn.Conv1d(16, 24, 3, padding=1), Role.CONV, (2, 16, 50)),
    "transposed": (lambda: nn.ConvTranspose2d(16, 24, 3, stride=2), Role.CONV_TRANSPOSE, (2, 16, 9, 10)),
    "rows": (lambda: nn.Linear(64, 48), Role.LINEAR, (100, 64)),
    "tokens": (lambda: nn.Linear(64, 48), Role.LINEAR, (2, 50, 64)),
    "long": (lambda: nn.Linear(4096, 8), Role.LINEAR, (3, 4096)),  # sums beyond 2^24
}


@pytest.mark.parametrize("is_forced", [False, True], ids=["default", "forced"])
@pytest.mark.parametrize("offset", [-128, 5])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_float64(
    name: str, bits: int, offset: int, is_forced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_forced:  # the int8 kernels also where they do not pay
        monkeypatch.setattr(int8_product, "_LEAST_PRODUCTS", 0)
        monkeypatch.setattr(int8_product, "_LEAST_POSITIONS", 0)
    make, role, shape = CASES[name]
    module = make().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    op = WeightedOp(module, role)
    own = torch.randint(-128, 128, op._own_weight().shape, generator=generator)
    bias = None if module.bias is None else torch.randint(-9000, 9000, module.bias.shape, generator=generator).float()
    scale = QuantParams(scale=torch.tensor(0.5), offset=torch.tensor(0), num_bits=8)
    data = QuantParams(scale=torch.tensor(0.25), offset=torch.tensor(offset), num_bits=bits)
    limits = requantize.limits_of(data)
    x = torch.randint(limits.low, limits.high + 1, shape, generator=generator).float()
    weight = prepared(FrozenWeight(op, own.to(torch.int8), bias, scale), data, adds_in_float=False)
    for given in (x, x.flip(0)):  # the second product takes what the first one has kept
        expected = op.apply(given.double(), own.double(), None if bias is None else torch.round(bias.double() / 0.125))
        found, bound = weight.product(given, None)
        assert torch.equal(found.double(), expected)
        assert float(found.abs().max()) <= bound
