"""torch.func.functional_call inside a forward: the weights that it gives are those of the layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import hotwheels.amct_pytorch as amct


class _Scaled(nn.Module):
    """The weight of a layer is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
        self.scale = nn.Parameter(torch.rand(4, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(functional_call(self.conv, {"weight": self.conv.weight * self.scale}, (x,)))
        return result


class _Body(nn.Module):
    """The weights of some layers inside a module are given, the others stay."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.gain, self.last = nn.Parameter(torch.rand(1)), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        given = {name: one * (1 + self.gain) for name, one in self.body.named_parameters() if name.endswith("weight")}
        result: Tensor = self.last(functional_call(self.body, given, (x,)))
        return result


class _OfData(nn.Module):
    """The weight depends on the data, so it is none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hyper, self.last = nn.Conv2d(3, 4, 3), nn.Linear(3, 4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        factor = self.hyper(x.mean((0, 2, 3))).reshape(4, 1, 1, 1)
        result: Tensor = self.last(functional_call(self.conv, {"weight": self.conv.weight * factor}, (x,)))
        return result


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (_Scaled(), {"conv2d", "last"}),
        (_Body(), {"conv2d", "conv2d_1", "last"}),
        (_OfData(), {"mean", "hyper", "reshape", "mul", "last"}),
    ],
    ids=["layer", "body", "data"],
)
def test_the_layers_have_the_weights_given(model: nn.Module, layers: set[str], tmp_path: Path) -> None:
    model, x = model.eval(), torch.rand(2, 3, 12, 12)
    amct.create_quant_config_fx(tmp_path / "config.json", model, input_data=x)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model, input_data=x)
    with torch.no_grad():
        assert torch.equal(quantized(x), model(x))
        amct.enable_quantization(quantized, calibration=True)
        quantized(x)
        assert set(quantized.quantized_layers) == layers
        amct.enable_quantization(quantized, real_quant=True)
        wanted = model(x)
        assert (quantized(x) - wanted).square().sum() < 1e-3 * wanted.square().sum()
    amct.save_quant_model_fx(quantized, tmp_path / "net", x, golden_inputs=x)
