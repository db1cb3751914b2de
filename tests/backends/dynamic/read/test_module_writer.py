"""The files of the dynamic path are written while the model runs; the names are those of torch's exporter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.dynamic.backend import DynamicBackend
from hotwheels.amct_pytorch.backends.dynamic.read import export
from hotwheels.amct_pytorch.errors import ExportError
from hotwheels.amct_pytorch.onnx_io.initializers import constant_of
from sample.mobilenet_v2.src.mobilenet import MobileNetV2
from sample.resnet50.src.resnet import ResNet
from sample.vit.src.conv_vit import ConvVisionTransformer
from sample.vit.src.vit import VisionTransformer, VitSize
from tests.support import fx_path
from tests.support.dynamic_path import make_config, quantize

SIZE = VitSize(image_size=32, patch_size=16, dim=16, depth=1, num_heads=2, mlp_dim=32)
X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: ResNet((1, 1, 1, 1), 10, 8),
    "mobilenet_v2": lambda: MobileNetV2(10, 0.25),
    "vit": lambda: VisionTransformer(10, SIZE),
    "vit of convolutions": lambda: ConvVisionTransformer(10, SIZE),
}


@pytest.fixture
def no_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("torch's exporter was called")

    monkeypatch.setattr(export, "export_onnx", forbidden)


def refuse(*args: object) -> None:
    raise ExportError("refused by the test")


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_layers_and_their_nodes_are_those_of_the_exporter(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    with monkeypatch.context() as patch:
        patch.setattr(export, "export_onnx", refuse)
        found = DynamicBackend(model, (X,))
    monkeypatch.setattr(export, "_written", refuse)
    expected = DynamicBackend(model, (X,))
    layers = [
        {node.layer: (node.onnx_name, node.op, len(node.edges)) for node in one.graph() if node.op is not None}
        for one in (found, expected)
    ]
    assert layers[0] == layers[1]
    assert found._export.sites == expected._export.sites
    assert list(found._export.sites) == list(expected._export.sites)
    assert found._export.edges == expected._export.edges


@pytest.mark.usefixtures("no_exporter")
@pytest.mark.parametrize("name", ["resnet", "vit", "vit of convolutions"])
def test_network_needs_no_exporter(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    files = make_config(model, tmp_path, X)
    quantized = quantize(model, files, X)
    quantized(X)
    files.save()


@torch.jit.script
def clipped(x: Tensor) -> Tensor:
    return x if bool(x.sum() > 1e9) else x.clamp(-0.5, 0.5)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Sum", x, x)


LIBRARY = torch.library.Library("tests_module_writer", "DEF")
LIBRARY.define("doubled(Tensor x) -> Tensor")
LIBRARY.impl("doubled", lambda x: x * 2, "CompositeImplicitAutograd")


def changed_view(x: Tensor) -> Tensor:
    y = x.clone()
    y.permute(0, 2, 3, 1).add_(1)
    return y


class Between(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.a(x)))


@pytest.mark.parametrize("function", [clipped, changed_view, torch.ops.tests_module_writer.doubled, Doubled.apply])
def test_file_has_what_the_writer_cannot_see(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    model = Between(function).eval()
    files = make_config(model, tmp_path, X)
    quantize(model, files, X)
    other = -2 * X
    expected = model(other).detach().numpy()
    assert abs(fx_path.run_onnx(files.onnx, other)[0] - expected).max() < 1e-5


def test_form_of_the_user_for_the_exporter_is_used() -> None:
    nodes = DynamicBackend(Between(Doubled.apply).eval(), (X,))._export.model.graph
    assert "Sum" in [node.op_type for node in nodes]


@pytest.mark.usefixtures("no_exporter")
def test_module_that_is_called_again_has_a_numbered_path() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 4, 1), relu, nn.Sequential(nn.Conv2d(4, 4, 1), relu), relu).eval()
    names = {str(name) for name in DynamicBackend(model, (X,))._export.exporter_names.values()}
    assert names == {"/0/Conv", "/1/Relu", "/2/2.0/Conv", "/2/1/Relu", "/1_1/Relu"}


@pytest.mark.usefixtures("no_exporter")
def test_training_does_not_change_what_was_written() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    backend = DynamicBackend(model, (X,))
    node = next(one for one in backend._export.model.graph if one.op_type == "Conv")
    before = constant_of(node.inputs[1])
    assert before is not None
    before = before.copy()
    with torch.no_grad():
        backend._model[0].weight.add_(1)  # type: ignore[index, operator, union-attr]
    assert (constant_of(node.inputs[1]) == before).all()
