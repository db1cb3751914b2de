"""The estimate of what refining gains reads 64 outputs of a layer, with their grid in the whole weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from hotwheels.amct_pytorch.log import warnings_only
from tests.support.fx_path import quantize
from tests.support.log_lines import LogLines

X = torch.rand(2, 5, 9, 9, generator=torch.Generator().manual_seed(0))
WIDE = {
    "convolution": nn.Conv2d(5, 100, 3),
    "transposed": nn.ConvTranspose2d(5, 100, 3),
    "groups": nn.Conv2d(5, 100, 3, groups=5),
    "narrow": nn.Conv2d(5, 64, 3),
}


@pytest.mark.parametrize("name", WIDE)
def test_the_rounding_error_is_that_of_the_whole_weight(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(WIDE[name], nn.BatchNorm2d(WIDE[name].out_channels)).eval()
    net[1].running_var.uniform_(0.5, 2.0)
    net[1].running_mean.normal_()
    (layer,) = quantize(net, tmp_path, [(X,)]).quantized_layers.values()
    weighted = layer.weighted
    weight, bias = weighted.op.folded()
    whole = weighted._round(weight, bias, None)[0] - weight
    rows = torch.arange(64) * 100 // 64 if name in ("convolution", "transposed") else torch.arange(len(weight))
    assert torch.equal(weighted._rounding_error(), whole[rows])
    result = weighted.op.apply(X, whole, None).double()[:, rows]
    rest = result - result.mean((0, 2, 3), keepdim=True)
    expected = 10 * torch.log10(result.square().mean() / rest.square().mean())
    assert layer.refine_gain == pytest.approx(expected.item(), abs=1e-4)


def test_sixteen_layers_spread_over_a_deep_network_estimate_the_gain(tmp_path: Path, log_lines: LogLines) -> None:
    torch.manual_seed(2)
    net = nn.Sequential(*(nn.Linear(6, 6) for _ in range(64))).eval()
    for one in net:  # else only the biases would reach the last layers
        nn.init.orthogonal_(one.weight)
    layers = list(quantize(net, tmp_path, [(torch.randn(50, 6),)]).quantized_layers.values())
    places = [place for place, layer in enumerate(layers) if layer.refine_gain is not None]
    assert [place // 4 for place in places] == list(range(16))  # one in each sixteenth of the network
    assert {place % 4 for place in places} == {0, 1, 2, 3}
    assert any("median of 16 layers" in line for line in log_lines.of("INFO"))


def test_no_layer_estimates_what_the_log_does_not_tell(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)).eval()
    with warnings_only():
        layers = quantize(net, tmp_path, [(torch.randn(5, 6),)]).quantized_layers.values()
    assert [layer.refine_gain for layer in layers] == [None, None]
