"""A layer that selects has the grid of its readers (spec 8.6): no level is lost, and every integer is equal."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.nn.quantized_layer import QuantizedLayer
from tests.support.dynamic_path import make_config, quantize, run
from tests.support.exact_dynamic import assert_exact as assert_exact_dynamic
from tests.support.exact_dynamic import layers_of
from tests.support.exact_pair import assert_exact

FOLLOWING = ("relu", "pool")  # both have the grid of "last"


class Residual(nn.Module):
    """A ReLU and a max pooling behind an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3, padding=1)
        self.right = nn.Conv2d(3, 8, 1)
        self.add = amct.EltwiseAdd()
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.last = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(self.relu(self.add(self.left(x), self.right(x)))))


def _model() -> Residual:
    torch.manual_seed(0)
    return Residual().eval()


def _static(folder: Path, x: Tensor) -> nn.Module:
    amct.create_quant_config_fx(folder / "config.json", _model())
    quantized = amct.create_quant_model_fx(folder / "config.json", _model())
    amct.enable_quantization(quantized, calibration=True)
    run(quantized, x)
    return quantized


def _assert_one_grid(layers: dict[str, QuantizedLayer]) -> None:
    last = layers["last"].record().activations[0]
    assert last.offset == -128, "the range is the one behind the ReLU"
    for name in FOLLOWING:
        assert layers[name].record().activations[0] == last
    assert layers["relu"].extremes(0)[0] < 0, "the tensor in front of the ReLU"


def test_static(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 12, 12)
    quantized = _static(tmp_path, x)
    _assert_one_grid(dict(quantized.quantized_layers))
    assert assert_exact(quantized, tmp_path, [x]).edges == 7


def test_dynamic(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 12, 12)
    files = make_config(_model(), tmp_path, x)
    quantized = quantize(_model(), files, x)
    run(quantized, x)
    files.save(quantized)
    _assert_one_grid(layers_of(quantized))
    assert assert_exact_dynamic(quantized, files, x)[0].edges == 7
    assert files.record.layers["relu"].activations == files.record.layers["last"].activations


def test_the_values_behind_it_are_rounded_once(tmp_path: Path) -> None:
    """With the sum exact, the result of the ReLU on the grid equals one rounding of the float result."""
    x = torch.randn(2, 3, 12, 12)
    quantized = _static(tmp_path, x)
    layers = quantized.quantized_layers
    amct.enable_quantization(quantized, fake_quant=True)
    summed = torch.randn(2, 8, 12, 12)
    once = layers["last"].activation[0].fake_quantize(torch.max_pool2d(summed.relu(), 3, 2, 1))
    with torch.no_grad():
        chained = layers["last"].activation[0].fake_quantize(layers["pool"](layers["relu"](summed.clone())))
    assert torch.equal(chained, once)


def test_a_saved_state_restores_the_shared_grid(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 12, 12)
    quantized = _static(tmp_path, x)
    other = amct.create_quant_model_fx(tmp_path / "config.json", _model())
    other.load_state_dict(quantized.state_dict())
    _assert_the_same(quantized, other, x)


def _assert_the_same(first: nn.Module, second: nn.Module, x: Tensor) -> None:
    for model in (first, second):
        amct.enable_quantization(model, fake_quant=True)
    assert torch.equal(run(first, x), run(second, x))
