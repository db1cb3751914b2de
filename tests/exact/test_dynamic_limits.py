"""Extreme values on the dynamic path: an exact result or an error that names the layer, never a wrong number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.errors import CalibrationError
from tests.support.dynamic_path import make_config, quantize, run
from tests.support.exact_dynamic import CONFIGURATIONS, calibrated_net, layers_of, oracle
from tests.support.exact_pair import assert_equal, run_torch

_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "ceil_mode": lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "ceil_mode without padding": lambda: nn.AvgPool2d(2, 3, 1, ceil_mode=True, count_include_pad=False),
    "ceil_mode max": lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "divisor": lambda: nn.AvgPool2d(3, 1, 1, divisor_override=5),
    "dilated max": lambda: nn.MaxPool2d(2, 1, 1, dilation=3),
    "asymmetric padding": lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 2, 0)), nn.MaxPool2d(2)),
    "asymmetric padding in front of a convolution": lambda: nn.Sequential(
        nn.ConstantPad2d((2, 0, 0, 1), 0.3), nn.Conv2d(4, 2, 3)
    ),
    "padding same": lambda: nn.Conv2d(4, 6, (2, 3), padding="same", dilation=2, groups=2),
    "padding reflect": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "uneven windows": lambda: nn.AdaptiveAvgPool2d((3, 2)),
    "one pixel": lambda: nn.AdaptiveMaxPool2d(1),
    "output padding": lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2, dilation=2),
    "batch_norm alone": lambda: nn.Sequential(nn.ELU(), nn.BatchNorm2d(4)),
    "upsample": lambda: nn.Upsample(scale_factor=1.5, mode="bilinear"),
}


def _net(layer: nn.Module) -> nn.Module:
    conv = nn.Conv2d(3, 4, 3, padding=(2, 1), dilation=2)
    return nn.Sequential(nn.Conv2d(3, 3, 1), conv, nn.ReLU(), layer, nn.Tanh()).eval()


@pytest.mark.parametrize("name", _LAYERS)
@pytest.mark.parametrize("count", [1, 2])
def test_geometry_is_exact_or_refused(name: str, count: int, tmp_path: Path) -> None:
    x = torch.randn(count, 3, 7, 8)
    try:
        quantized, files = calibrated_net(_net(_LAYERS[name]()), "12 bits", tmp_path, [x])
    except (amct.ExportError, amct.UnsupportedModelError) as error:
        assert "ONNX" in str(error) or "must be quantized" in str(error)
        return
    x = torch.randn(count, 3, 7, 8)
    found = assert_equal(layers_of(quantized), run_torch(quantized, [x]), oracle(files, x))
    assert found.edges >= 3


def test_maps_of_one_pixel(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 1, 1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1)).eval()
    quantized, files = calibrated_net(model, "8 bits", tmp_path, [x])
    assert_equal(layers_of(quantized), run_torch(quantized, [2 * x]), oracle(files, 2 * x))


def test_adaptive_pooling_without_a_batch_axis_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1)).eval()
    with pytest.raises(amct.ExportError, match=r"Layer '1'.*without a batch axis"):
        make_config(model, tmp_path, torch.randn(3, 6, 7))


def test_empty_batch(tmp_path: Path) -> None:
    model, x = _net(nn.MaxPool2d(2)), torch.randn(2, 3, 8, 8)
    files = make_config(model, tmp_path, x)
    quantized = quantize(model, files, x, dynamic_axes={"input": [0]})
    run(quantized, x)
    files.save(quantized)
    empty = torch.zeros(0, 3, 8, 8)
    result = oracle(files, empty)
    assert_equal(layers_of(quantized), run_torch(quantized, [empty]), result)
    assert [one.shape[0] for one in result.outputs.values()] == [0]


@pytest.mark.parametrize("size", [1e-33, 1e-12, 1e12, 1e33])
def test_scales_near_the_ends_of_float32(size: float, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False)).eval()
    quantized, files = calibrated_net(model, "8 bits", tmp_path, [size * torch.randn(2, 3, 4, 4)])
    x = size * torch.randn(2, 3, 4, 4)
    assert_equal(layers_of(quantized), run_torch(quantized, [x]), oracle(files, x))


def test_overflowing_accumulator_names_the_layer_on_both_sides(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2, bias=False)).eval()
    nn.init.constant_(model[1].weight, 1.0)
    assert CONFIGURATIONS["16 bits"][0] == 16
    quantized, files = calibrated_net(model, "16 bits", tmp_path, [torch.rand(1, 3, 32, 32) + 1])
    x = torch.full((1, 3, 32, 32), 2.0)
    with pytest.raises(CalibrationError, match=r"'1'.*outside int32"):
        run_torch(quantized, [x])
    with pytest.raises(CalibrationError, match=r"'1'.*overflows int32"):
        oracle(files, x)


def test_nan_is_refused_on_both_sides(tmp_path: Path) -> None:
    quantized, files = calibrated_net(_net(nn.MaxPool2d(2)), "8 bits", tmp_path, [torch.randn(1, 3, 8, 8)])
    x = torch.full((1, 3, 8, 8), float("nan"))
    for compute in (lambda: run_torch(quantized, [x]), lambda: oracle(files, x)):
        with pytest.raises(CalibrationError, match=r"'0'.*contains NaN"):
            compute()


class Vectors(nn.Module):
    """Products of vectors: results without any axis."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.matmul = nn.Linear(6, 6), amct.MatMul()

    def forward(self, x: Tensor) -> Tensor:
        return self.matmul(self.scale(x), x) * 0.5


def test_product_without_axes(tmp_path: Path) -> None:
    x = torch.randn(6)
    files = make_config(Vectors().eval(), tmp_path, x, activation_offset=False)
    quantized = quantize(Vectors().eval(), files, x)
    run(quantized, x)
    files.save(quantized)
    assert_equal(layers_of(quantized), run_torch(quantized, [2 * x]), oracle(files, 2 * x))


def _twice(original: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: original(x) * 2


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Sigmoid()])
def test_forward_set_on_a_layer_is_part_of_it_or_refused(layer: nn.Module, tmp_path: Path) -> None:
    layer.forward = _twice(layer.forward)
    x = torch.randn(2, 3, 8, 8)
    try:
        quantized, files = calibrated_net(_net(layer), "8 bits", tmp_path, [x])
    except amct.UnsupportedModelError as error:
        assert "a forward was set on it" in str(error)
        return
    trace, result = run_torch(quantized, [x]), oracle(files, x)
    assert_equal(layers_of(quantized), trace, result)
    torch.testing.assert_close(run(quantized, x), torch.from_numpy(next(iter(result.outputs.values()))))
