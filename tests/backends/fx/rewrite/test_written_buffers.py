"""A forward that writes a buffer, under any name of its memory, computes the same as the model in each call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.errors import UnsupportedModelError


class _Net(nn.Module):
    def __init__(self, write: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("scale", torch.ones(4, 1, 1))
        self._write = write

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        self._write(self.scale)
        return y * self.scale


def _augmented_data(scale: Tensor) -> None:
    scale.data += 1.0


def _assigned_data(scale: Tensor) -> None:
    scale.data = scale.data * 0.9


def _item_of_data(scale: Tensor) -> None:
    scale.data[0] = 3.0


_WRITES: dict[str, Callable[[Tensor], object]] = {
    "mul_": lambda scale: scale.mul_(0.9),
    "out": lambda scale: torch.mul(scale, 0.9, out=scale),
    "data.mul_": lambda scale: scale.data.mul_(0.9),
    "detach": lambda scale: scale.detach().mul_(0.9),
    "view": lambda scale: scale.view(-1).mul_(0.9),
    "item": lambda scale: scale[0].mul_(0.9),
    "data +=": _augmented_data,
    "data =": _assigned_data,
    "data[0] =": _item_of_data,
}


def _computes_like_eager(model: nn.Module, with_example: bool, folder: Path) -> tuple[Any, Any]:
    """Returns the quantized model and a copy of ``model`` after three equal calls of both."""
    original = copy.deepcopy(model)
    x = torch.randn(2, 3, 8, 8)
    example = {"input_data": (x,)} if with_example else {}
    amct.create_quant_config_fx(folder / "config.json", model, **example)
    quantized = amct.create_quant_model_fx(folder / "config.json", model, **example)
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(quantized(x), original(x))
    return quantized, original


@pytest.mark.parametrize("with_example", [False, True])
@pytest.mark.parametrize("name", _WRITES)
def test_written_buffer_is_no_constant(name: str, with_example: bool, tmp_path: Path) -> None:
    model = _Net(_WRITES[name]).eval()
    quantized, original = _computes_like_eager(model, with_example, tmp_path)
    assert torch.equal(quantized.scale, original.scale)
    assert torch.equal(model.scale, torch.ones(4, 1, 1))


@pytest.mark.parametrize("with_example", [False, True])
def test_assigned_data_is_refused(with_example: bool, tmp_path: Path) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1
            y.data = y.data * 0.9
            return y

    example = {"input_data": (torch.randn(2, 3, 8, 8),)} if with_example else {}
    with pytest.raises(UnsupportedModelError, match=r"assignment to the \.data .* write x\.copy_"):
        amct.create_quant_config_fx(tmp_path / "config.json", Net().eval(), **example)


@pytest.mark.parametrize("with_example", [False, True])
@pytest.mark.parametrize("name", ["average", "mean"])
def test_running_average_of_data_is_updated_as_in_eager(name: str, with_example: bool, tmp_path: Path) -> None:
    """``mean`` is also the name of a node."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
            self.register_buffer(name, torch.ones(4))
            self.register_buffer("count", torch.zeros((), dtype=torch.long))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            y = self.conv(x).mean((2, 3))
            average = getattr(self, name)
            average.mul_(0.9).add_(y.detach().mean(0), alpha=0.1)
            return self.fc(y - average)

    model = Net().eval()
    quantized, original = _computes_like_eager(model, with_example, tmp_path)
    assert torch.equal(quantized.get_buffer(name), original.get_buffer(name))
    assert quantized.count == original.count == 3
