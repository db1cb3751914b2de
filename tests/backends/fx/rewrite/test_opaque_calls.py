"""Functions under torch.fx.wrap that multiply are looked into where the trace has an example."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.backend import FxBackend
from hotwheels.amct_pytorch.graph import OpGraph
from hotwheels.amct_pytorch.ops.registry import Registry
from hotwheels.amct_pytorch.workflows.check.integer_share import measured_share
from tests.support.exact_pair import assert_exact
from tests.support.fx_path import calibrate, run_float


@torch.fx.wrap
def scaled(x: Tensor, gain: Tensor) -> Tensor:
    return x * gain


@torch.fx.wrap
def windowed(x: Tensor, qkv: Tensor, bias: Tensor, window: int, training: bool = True) -> Tensor:
    """As torchvision's Swin: sizes decide, a mask is written into a constant, an opaque call inside."""
    batch, height, width, channels = x.shape
    if window > height:
        raise ValueError("the image is smaller than a window")
    parts = x.view(batch, height // window, window, width // window, window, channels)
    tokens = parts.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)
    query, key, value = F.linear(tokens, qkv, bias).chunk(3, -1)
    mask = query.new_zeros((window * window, window * window))
    mask[0, 1:] = -5.0
    weights = F.dropout((query @ key.transpose(1, 2) * 0.3 + mask).softmax(-1), p=0.0, training=training)
    mixed = scaled(weights @ value, bias[:channels])
    parts = mixed.view(batch, height // window, width // window, window, window, channels)
    return parts.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)


@torch.fx.wrap
def by_value(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight) if float(x.abs().mean()) >= 0 else x


@torch.fx.wrap
def dropping(x: Tensor, weight: Tensor, training: bool) -> Tensor:
    return F.linear(F.dropout(x, 0.5, training), weight)


@torch.fx.wrap
def pair(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return F.linear(x, weight), x


class Net(nn.Module):
    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.conv, self.qkv, self.head = nn.Conv2d(3, 6, 1), nn.Linear(6, 18), nn.Linear(6, 2)
        self.square = nn.Parameter(torch.randn(6, 6))
        self._call = call

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).permute(0, 2, 3, 1)
        return self.head(self._call(self, self._call(self, x) + 1.0).mean((1, 2)))


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
OPAQUE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "nothing multiplies": lambda net, x: scaled(x, net.qkv.bias[:6]),
    "a value of the data decides": lambda net, x: by_value(x, net.square),
    "drops in training": lambda net, x: dropping(x, net.square, net.training),
    "two results": lambda net, x: pair(x, net.square)[0],
}


def swin(net: Any, x: Tensor) -> Tensor:
    return windowed(x, net.qkv.weight, net.qkv.bias, 4, training=net.training)


def _graph(call: Callable[[Any, Tensor], Tensor], *example: Tensor) -> OpGraph:
    torch.manual_seed(0)
    return FxBackend(Net(call).eval(), Registry(), inputs=example or None).graph()


def test_products_inside_are_layers_and_other_names_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net(swin).eval()
    config = tmp_path / "config.json"
    amct.create_quant_config_fx(config, model, input_data=X)
    quantized = amct.create_quant_model_fx(config, model, input_data=X)
    calibrate(quantized, [(X,)])
    layers = list(quantized.quantized_layers)
    assert [one for one in layers if "linear" in one] == ["windowed_linear", "windowed_1_linear"]
    assert [one for one in layers if "matmul" in one][:2] == ["windowed_matmul", "windowed_matmul_1"]
    assert {node.name for node in _graph(swin).quantizable} <= set(layers)
    share = measured_share(quantized, (X,))
    assert share is not None
    assert share.share == 1.0
    assert "windowed_scaled" in {skip.name for skip in _graph(swin, X).skips}  # nothing in that one multiplies
    for count in (1, 4, 5):
        x = X[:1].repeat(count, 1, 1, 1) + torch.randn(count, 1, 1, 1)
        with torch.no_grad():
            torch.testing.assert_close(run_float(quantized, x), model(x), rtol=1e-5, atol=1e-5)
    assert assert_exact(quantized, tmp_path, [1.5 * X]).differences == ()


def test_weights_inside_are_trained(tmp_path: Path) -> None:
    model = Net(swin)
    amct.create_quant_config_fx(tmp_path / "config.json", model, input_data=X)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model, input_data=X)
    calibrate(quantized, [(X,)])
    amct.enable_quantization(quantized, fake_quant=True)
    quantized.train()(X).square().mean().backward()
    gradient = dict(quantized.named_parameters())["qkv.weight"].grad
    assert gradient is not None
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("name", OPAQUE)
def test_call_stays(name: str) -> None:
    names = [node.name for node in _graph(OPAQUE[name], X)]
    assert names == [node.name for node in _graph(OPAQUE[name])]


def test_without_an_example_a_call_stays() -> None:
    assert "windowed" in {node.name for node in _graph(swin)}
