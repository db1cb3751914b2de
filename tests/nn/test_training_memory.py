"""A training step that writes over its own values, and keeps fewer, computes the same bits as one that does neither."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.nn import in_place_call, quantized_layer
from hotwheels.amct_pytorch.quantizers import UlqFakeQuantize
from hotwheels.amct_pytorch.quantizers.learning import learned_range as module
from tests.support.fx_path import quantize


class Residual(nn.Module):
    """A stem with a pooling, a block with a convolution beside it, a block with the identity beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Linear(6, 4)
        self.first, self.second = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(4))
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norms[0](self.stem(x))))
        x = self.relu(self.norms[1](self.first(x)) + self.norms[2](self.side(x)))
        x = torch.relu(self.norms[3](self.second(x)) + x)
        return self.head(x.mean((2, 3)))


def make(folder: Path, x: Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = quantize(Residual(), folder, [(x,)])
    amct.enable_quantization(model, fake_quant=True)
    return model.train()


def step(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The outputs of a forward, the gradients, and the state after it."""
    model.zero_grad()
    data = x.clone().requires_grad_()
    out = model(data)
    out.square().sum().backward()
    return [out, data.grad, *(one.grad for one in model.parameters() if one.grad is not None), *model.buffers()]


def plainly(monkeypatch: pytest.MonkeyPatch, model: nn.Module, x: Tensor) -> list[Tensor]:
    """`step` without any of the three changes."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "_is_on_grid", lambda x, grid: False)
        patch.setattr(quantized_layer, "call_over_with_gradient", lambda *_: None)
        patch.setattr(quantized_layer, "unrounded", lambda value: None)
        return step(model, x)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_step_has_the_same_bits(tmp_path, monkeypatch, mode):
    x = torch.randn(2, 3, 18, 18, generator=torch.Generator().manual_seed(1))
    expected = plainly(monkeypatch, getattr(make(tmp_path, x), mode)(), x)
    over: list[Tensor | None] = []
    call = in_place_call.call_over_with_gradient
    monkeypatch.setattr(quantized_layer, "call_over_with_gradient", lambda *args: over.append(call(*args)) or over[-1])
    found = step(getattr(make(tmp_path, x), mode)(), x)
    assert sum(one is not None for one in over) == 4  # two sums, two ReLUs behind them
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_what_a_hook_on_a_layer_has_seen_does_not_change(tmp_path):
    x = torch.randn(2, 3, 18, 18, generator=torch.Generator().manual_seed(1))
    model = make(tmp_path, x).eval()
    seen: list[Tensor] = []
    copies: list[Tensor] = []
    for name in ("add", "relu_1", "add_1", "pool"):
        layer = model.get_submodule(f"amct_layers.{name}")
        layer.register_forward_hook(lambda _, args, result: seen.extend((*args, result)))
        layer.register_forward_hook(lambda _, args, result: copies.extend(one.clone() for one in (*args, result)))
    model(x)
    assert len(seen) == 10 and all(torch.equal(one, copy) for one, copy in zip(seen, copies, strict=True))


def test_points_of_a_grid_are_rounded_to_themselves():
    quantizer = UlqFakeQuantize(clip_max=2.0, fixed_min=True, num_bits=16)
    x = torch.linspace(-1, 3, 4 * 8 * 8).reshape(1, 4, 8, 8).requires_grad_()
    points = F.max_pool2d(F.relu(quantizer.fake_quantize(x)), 2)
    again = quantizer.fake_quantize(points)
    assert again.data_ptr() == points.data_ptr()
    assert torch.equal(again, quantizer.fake_quantize(points.detach()))


@pytest.mark.parametrize("reason", ["another grid", "changed", "changed without gradient", "no learned range"])
def test_other_tensors_are_rounded(reason):
    quantizer = UlqFakeQuantize(clip_max=2.0, fixed_min=True)
    x = torch.linspace(-1, 3, 256).reshape(1, 4, 8, 8).requires_grad_()
    first = UlqFakeQuantize(clip_max=1.9, fixed_min=True) if reason == "another grid" else quantizer
    points = F.max_pool2d(F.relu(x if reason == "no learned range" else first.fake_quantize(x)), 2)
    if reason == "changed":
        points.mul_(0.3)
    if reason == "changed without gradient":
        with torch.no_grad():
            points.mul_(0.3)
    again = quantizer.fake_quantize(points)
    assert again.data_ptr() != points.data_ptr()
    assert torch.equal(again, quantizer.fake_quantize(points.detach()))
