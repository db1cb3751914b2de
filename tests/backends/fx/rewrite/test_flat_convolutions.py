"""A Conv3d with a flat kernel is a layer, a convolution of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.backend import FxBackend
from hotwheels.amct_pytorch.ops.registry import Registry
from tests.support.exact_pair import assert_exact
from tests.support.fx_path import calibrate


class Lambda(nn.Module):
    """A Conv3d over the rows and columns of one channel after the other, as in LambdaNetworks."""

    def __init__(self, axis: int, **settings: Any) -> None:
        super().__init__()
        self.axis = axis
        self.first = nn.Conv2d(3, 4, 1)
        self.conv = nn.Conv3d(2, 6, **settings)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).unflatten(1, (2, 2)).movedim(2, self.axis)
        y: Tensor = self.conv(x).relu()
        return y


FLAT = {
    "first axis": Lambda(2, kernel_size=(1, 3, 5), padding=(0, 1, 2)),
    "second axis": Lambda(3, kernel_size=(3, 1, 3), stride=(2, 1, 1), groups=2),
    "last axis": Lambda(4, kernel_size=(3, 3, 1), padding=(1, 1, 0), dilation=(2, 1, 3), bias=False),
}
X = torch.randn(2, 3, 8, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FLAT)
def test_flat_kernel_is_a_layer(name: str, tmp_path: Path) -> None:
    model = FLAT[name].eval()
    amct.create_quant_config_fx(tmp_path / "config.json", model, input_data=X)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model, input_data=X)
    with torch.no_grad():
        torch.testing.assert_close(quantized(X[:1]), model(X[:1]))
    calibrate(quantized, [(X,)])
    assert quantized.quantized_layers["conv"].record().weight is not None
    assert_exact(quantized, tmp_path, [X])


@pytest.mark.parametrize(
    "settings",
    [{"kernel_size": 3}, {"kernel_size": (1, 3, 3), "stride": 2}, {"kernel_size": (1, 3, 3), "padding": 1}],
    ids=str,
)
def test_other_kernels_stay_in_float(settings: dict[str, Any]) -> None:
    model = Lambda(4, **{"padding": (1, 1, 1), **settings}).eval()
    assert "Conv3d" in str(FxBackend(model, Registry(), inputs=(X,)).graph()["conv"].unquantizable)
