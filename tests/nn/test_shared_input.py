"""Quantizing in place saves memory and time, and changes no other result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
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


def fake_quant_model(tmp_path: Path, x: Tensor, kind: type[nn.Module] = Branches) -> nn.Module:
    torch.manual_seed(0)
    config = str(tmp_path / "config.json")
    model = kind().eval()
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


class Chain(nn.Module):
    """Elementwise operations whose inputs have no other reader, behind identities and readers of sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Identity()
        self.act = nn.SiLU()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Hardsigmoid()
        self.conv3 = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv1(x))
        torch._assert(x.ndim == 4, "images")
        x = self.act(self.drop(x))
        x = F.silu(self.conv2(x)) * self.gate(self.squeeze(x))
        x = torch.cat((x, torch.sigmoid(x) + x), 1)
        return self.conv3(x)


def test_results_written_over_inputs_are_those_of_new_tensors(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    quantized = fake_quant_model(tmp_path, x, Chain)
    for given in (x, x.to(memory_format=torch.channels_last)):
        before, expected = given.clone(), quantized(given)  # with gradients nothing is overwritten
        with torch.no_grad():
            assert torch.equal(quantized(given), expected)
        with torch.inference_mode():
            assert torch.equal(quantized(given), expected)
        assert torch.equal(given, before)


def test_a_result_is_not_written_over_an_input_that_a_hook_sees(tmp_path: Path) -> None:
    quantized = fake_quant_model(tmp_path, torch.randn(2, 3, 8, 8), Chain)
    (layer,) = [one for one in quantized.quantized_layers.values() if one.call.function is quantized.act]
    seen: list[bool] = []

    def compare(_: nn.Module, args: tuple[Tensor], result: Tensor) -> None:
        seen.append(result is not args[0] and torch.equal(F.silu(args[0]), result))

    for module in (layer, quantized.act):
        with module.register_forward_hook(compare), torch.no_grad():
            quantized(torch.randn(2, 3, 8, 8))
    assert seen == [True, True]


def test_inputs_behind_an_identity_are_overwritten(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    quantized = fake_quant_model(tmp_path, x, Chain)
    layers = quantized.quantized_layers
    with torch.no_grad():
        (act,) = [one for one in layers.values() if one.call.function is quantized.act]
        assert act._sharing[0].may_overwrite
        assert layers["conv3"]._sharing[0].may_overwrite  # behind cat
        for module in (quantized.drop, quantized.conv1):  # a hook on the identity, or in front of it, keeps the tensor
            with module.register_forward_hook(lambda *_: None):
                assert not act._sharing[0].may_overwrite
