"""Quantizing in place saves memory and time, and changes no other result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct


class Branches(nn.Module):
    """``relu`` feeds a convolution and an addition (siblings); ``pool`` feeds a layer and the output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.relu(self.conv1(x))
        pooled = self.pool(self.conv2(x) + x)
        return pooled, self.conv3(pooled)


def fake_quant_model(tmp_path: Path, x: Tensor) -> nn.Module:
    torch.manual_seed(0)
    config = str(tmp_path / "config.json")
    model = Branches().eval()
    amct.create_quant_config_fx(config, model)
    quantized = amct.create_quant_model_fx(config, model)
    amct.enable_quantization(quantized, calibration=True)
    quantized(x)
    amct.enable_quantization(quantized, fake_quant=True)
    return quantized


def test_quantizing_in_place_changes_no_output(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    quantized = fake_quant_model(tmp_path, x)
    expected = quantized(x)  # with gradients nothing is overwritten
    before = x.clone()
    with torch.no_grad():
        for _ in range(2):
            assert all(torch.equal(a, b) for a, b in zip(quantized(x), expected, strict=True))
    assert torch.equal(x, before)


def test_what_only_the_siblings_read_is_overwritten_and_nothing_else(tmp_path: Path) -> None:
    quantized = fake_quant_model(tmp_path, torch.randn(2, 3, 8, 8))
    with torch.no_grad():
        free = {
            f"{name}:{index}": shared.may_overwrite
            for name, layer in quantized.quantized_layers.items()
            for index, shared in enumerate(layer._sharing)
        }
    assert free == {
        "conv1:0": False,  # the caller's input
        "conv2:0": True,  # relu, read by conv2 and add alone
        "add:0": True,
        "add:1": True,
        "pool:0": True,
        "conv3:0": False,  # pool is an output as well
    }


def test_a_hook_sees_the_tensor_before_the_quantizer(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    quantized = fake_quant_model(tmp_path, x)
    kept: list[Tensor] = []
    quantized.relu.register_forward_hook(lambda module, inputs, output: kept.append(output))
    quantized(x)
    with torch.no_grad():
        quantized(x)
    assert torch.equal(kept[0], kept[1])


def test_a_dump_shows_the_tensor_before_the_quantizer(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    quantized = fake_quant_model(tmp_path, x)
    for name, context in (("grad", torch.enable_grad()), ("no_grad", torch.no_grad())):
        amct.enable_dump(quantized, tmp_path / name)
        with context:
            quantized(x)
    for path in (tmp_path / "grad").iterdir():
        assert np.array_equal(np.load(path), np.load(tmp_path / "no_grad" / path.name)), path.name
