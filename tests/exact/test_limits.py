"""Extreme values: an exact result or an error that names the layer, never a wrong number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.errors import CalibrationError
from tests.support.exact_pair import assert_exact, compare, run_oracle, run_torch
from tests.support.fx_path import quantize

_DYNAMIC = {"dynamic_axes": {"x": {0: "batch"}}}
_WIDE = {"activation_quant_params": [{"quantizer": "UlqFakeQuantize", "quantizer_args": {"num_bits": 16}}]}


class Net(nn.Module):
    """A convolution, an operation, a scalar multiplication."""

    def __init__(self, operation: Callable[[Tensor], Tensor], channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.pooled = nn.Conv2d(channels, 4, 3, padding=(2, 1), dilation=2)
        self._operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self._operation(F.relu(self.pooled(self.conv(x)))) * 0.5


_GEOMETRIES: dict[str, Callable[[Tensor], Tensor]] = {
    "ceil_mode": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "ceil_mode without padding": lambda x: F.avg_pool2d(x, 2, 3, 1, ceil_mode=True, count_include_pad=False),
    "ceil_mode max": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "divisor": lambda x: F.avg_pool2d(x, 3, 1, 1, divisor_override=5),
    "dilated max": lambda x: F.max_pool2d(x, 2, 1, 1, dilation=3),
    "asymmetric padding": lambda x: F.max_pool2d(F.pad(x, (0, 1, 2, 0)), 2),
    "uneven windows": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "one pixel": lambda x: F.adaptive_max_pool2d(x, 1),
}


@pytest.mark.parametrize("name", _GEOMETRIES)
@pytest.mark.parametrize("count", [1, 3])
def test_geometry_is_exact_or_refused(name: str, count: int, tmp_path: Path) -> None:
    quantized = quantize(Net(_GEOMETRIES[name]).eval(), tmp_path, [(torch.randn(2, 3, 7, 8),)])
    try:
        amct.save_quant_model_fx(quantized, tmp_path / "probe", torch.randn(1, 3, 7, 8))
    except amct.ExportError as error:
        assert "ONNX" in str(error)
        return
    assert_exact(quantized, tmp_path, [torch.randn(count, 3, 7, 8)], **_DYNAMIC)


def test_maps_of_one_pixel(tmp_path: Path) -> None:
    quantized = quantize(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)).eval(), tmp_path, [(torch.randn(2, 3, 1, 1),)]
    )
    assert_exact(quantized, tmp_path, [torch.randn(1, 3, 1, 1)])


def test_empty_batch(tmp_path: Path) -> None:
    quantized = quantize(Net(lambda x: F.max_pool2d(x, 2)).eval(), tmp_path, [(torch.randn(2, 3, 8, 8),)])
    amct.save_quant_model_fx(quantized, tmp_path / "net", torch.randn(1, 3, 8, 8), _DYNAMIC)
    empty = torch.zeros(0, 3, 8, 8)
    trace, result = run_torch(quantized, [empty]), run_oracle(tmp_path / "net", [empty])
    assert not compare(quantized.quantized_layers, trace, result).differences
    assert next(iter(result.outputs.values())).shape == (0, 4, 4, 3)


def test_overflowing_accumulator_names_the_layer_on_both_sides(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2, bias=False)).eval()
    nn.init.constant_(model[1].weight, 1.0)
    quantized = quantize(model, tmp_path, [(torch.rand(2, 3, 32, 32) + 1,)], {"_1": _WIDE})
    amct.save_quant_model_fx(quantized, tmp_path / "net", torch.rand(2, 3, 32, 32))
    x = torch.full((1, 3, 32, 32), 2.0)
    with pytest.raises(CalibrationError, match=r"'_1'.*outside int32"):
        run_torch(quantized, [x])
    with pytest.raises(CalibrationError, match=r"'_1'.*overflows int32"):
        run_oracle(tmp_path / "net", [x])


@pytest.mark.parametrize("size", [1e-33, 1e-12, 1e12, 1e33])
def test_scales_near_the_ends_of_float32(size: float, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False)).eval()
    quantized = quantize(model, tmp_path, [(size * torch.randn(2, 3, 4, 4),)])
    assert_exact(quantized, tmp_path, [size * torch.randn(2, 3, 4, 4)])


def test_nan_is_refused_on_both_sides(tmp_path: Path) -> None:
    quantized = quantize(Net(lambda x: x).eval(), tmp_path, [(torch.randn(1, 3, 8, 8),)])
    amct.save_quant_model_fx(quantized, tmp_path / "net", torch.randn(1, 3, 8, 8))
    x = torch.full((1, 3, 8, 8), float("nan"))
    with pytest.raises(CalibrationError, match=r"'conv'.*contains NaN"):
        run_torch(quantized, [x])
    with pytest.raises(CalibrationError, match=r"'conv'.*contains NaN"):
        run_oracle(tmp_path / "net", [x])


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(3), nn.AvgPool2d(2), nn.MaxPool2d(2)])
def test_image_without_a_batch_axis(pool: nn.Module, tmp_path: Path) -> None:
    """The axis that the file adds and takes away leaves the integers of the layer as they are."""
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), pool, nn.Conv2d(4, 2, 1)).eval(), torch.randn(3, 6, 6)
    assert_exact(quantize(model, tmp_path, [(x,)]), tmp_path, [x])


def test_linear_on_a_vector(tmp_path: Path) -> None:
    quantized = quantize(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)).eval(), tmp_path, [(torch.randn(6),)])
    assert_exact(quantized, tmp_path, [torch.randn(6)])


class Casts(nn.Module):
    """A conversion to integers is none of those which mean nothing between the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.last(x + x.to(dtype=torch.int32))


def test_conversion_to_integers_by_keyword(tmp_path: Path) -> None:
    quantized = quantize(Casts().eval(), tmp_path, [(torch.randn(1, 3, 8, 8),)])
    assert_exact(quantized, tmp_path, [3 * torch.randn(1, 3, 8, 8)])


def test_infinity_is_clipped(tmp_path: Path) -> None:
    quantized = quantize(Net(lambda x: x).eval(), tmp_path, [(torch.randn(1, 3, 8, 8),)])
    x = torch.randn(1, 3, 8, 8)
    x[0, 0, 0, :2] = torch.tensor([np.inf, -np.inf])
    assert_exact(quantized, tmp_path, [x])
