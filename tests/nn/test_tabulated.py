"""real_quant computes a function of single elements once for each point of its input's grid."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.nn import integer_layer
from tests.support.fx_path import quantize


def test_an_activation_is_computed_for_the_grid_points_only(monkeypatch, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 2, 3)).eval()
    x = torch.randn(2, 3, 40, 40)
    quantized = quantize(net, tmp_path, [(x,)])
    amct.enable_quantization(quantized, real_quant=True)
    sizes, silu = [], F.silu
    monkeypatch.setattr(F, "silu", lambda x, *args, **kwargs: sizes.append(x.numel()) or silu(x, *args, **kwargs))
    with torch.no_grad():
        found = quantized(x)
        assert sizes == [256]
        monkeypatch.setattr(integer_layer, "_LEAST_SHARE", 1 << 40)
        assert torch.equal(found, quantized(x))
    assert sizes[-1] > 256


@pytest.mark.parametrize("size", [2, 40])
def test_a_subclass_with_a_forward_of_its_own_is_no_table(tmp_path, size):
    class Centred(nn.SiLU):
        amct_leaf = True

        def forward(self, input):
            return super().forward(input - input.mean())

    torch.manual_seed(0)
    net = nn.Sequential(Centred(), nn.Conv2d(3, 2, 1)).eval()
    x = torch.randn(2, 3, size, size)
    quantized = quantize(net, tmp_path, [(x,)])
    amct.enable_quantization(quantized, real_quant=True)
    with torch.no_grad():
        assert (quantized(x) - net(x)).abs().max() < 0.05
