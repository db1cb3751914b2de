"""The graph is compared with the model on the example; a difference is an error that names the first module."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct


class Exact(nn.Module):
    """Asks for the exact type of a value, which no Proxy can answer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(y * 2 if type(y) is Tensor else y)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(x + torch.randn(4)) * self.calls


def create(model: nn.Module, folder: Path) -> nn.Module:
    x = torch.randn(2, 4)
    amct.create_quant_config_fx(folder / "c.json", model, input_data=x)
    return amct.create_quant_model_fx(folder / "c.json", model, input_data=x)


def test_difference_is_an_error_that_names_where_it_begins(tmp_path: Path) -> None:
    with pytest.raises(amct.UnsupportedModelError, match=r"'second' is the first module .* \(behind 'first'"):
        create(Exact().eval(), tmp_path)


def test_random_numbers_and_state_are_no_difference(tmp_path: Path) -> None:
    model = Noisy().eval()
    quantized = create(model, tmp_path)
    assert float(model.calls) == 0
    assert float(quantized.calls) == 0


def test_training_flags_are_left_as_they_were(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4).eval()).train()
    model[1].eval()
    x = torch.randn(2, 4, 3, 3)
    amct.create_quant_config_fx(tmp_path / "c.json", model, input_data=x)
    quantized = amct.create_quant_model_fx(tmp_path / "c.json", model, input_data=x)
    assert quantized.training
    assert not quantized.get_submodule("1").training
