"""Whole networks are saved with torch's exporters forbidden; docs/exporter.md lists the calls that need it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.writer import one_call
from hotwheels.amct_pytorch.errors import ExportError
from sample.mobilenet_v2.src.mobilenet import MobileNetV2
from sample.resnet50.src.resnet import ResNet
from sample.vit.src.conv_vit import ConvVisionTransformer
from sample.vit.src.vit import VisionTransformer, VitSize
from tests.support.fx_path import quantize

SIZE = VitSize(image_size=32, patch_size=16, dim=16, depth=1, num_heads=2, mlp_dim=32)
X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: ResNet((1, 1, 1, 1), 10, 8),
    "mobilenet_v2": lambda: MobileNetV2(10, 0.25),
    "vit": lambda: VisionTransformer(10, SIZE),
    "vit of convolutions": lambda: ConvVisionTransformer(10, SIZE),
}


class Gamma(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.lgamma(self.conv(x))


@pytest.fixture(autouse=True)
def no_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise ExportError("torch's exporters are forbidden here")

    monkeypatch.setattr(one_call, "export_call", forbidden)
    monkeypatch.setattr(one_call, "export_by_dynamo", forbidden)


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_network_needs_no_exporter(make: Callable[[], nn.Module], opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    quantized = quantize(make().eval(), tmp_path, [(X,)])
    amct.save_quant_model_fx(quantized, tmp_path / "n", X, {"opset_version": opset})
    assert (tmp_path / "n_deploy_model.onnx").is_file()


def test_forbidden_exporter_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="forbidden here"):
        amct.save_quant_model_fx(quantize(Gamma().eval(), tmp_path, [(X,)]), tmp_path / "n", X)
