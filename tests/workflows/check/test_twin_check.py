"""At a save the float graph is compared with the user's own forward, with the weights that it has then (spec 2.4)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.errors import ExportError
from hotwheels.amct_pytorch.workflows.check.twin_check import check_against_twin

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Any:
        return {"y": self.last(self.drop(torch.relu(self.bn(self.conv(x)))))}


class AsksForTheLength(Net):
    """A stock trace takes the branch of the failure."""

    def forward(self, x: Tensor) -> Any:
        y = torch.relu(self.bn(self.conv(x)))
        try:
            scale = len(y)
        except Exception:
            scale = 1
        return self.last(self.drop(y * scale))


class AsksForTheType(Net):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return self.last(y * 2 if type(y) is Tensor else y)


class Draws(Net):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return self.last(y + torch.randn_like(y))


def calibrated(model: nn.Module, folder: Path) -> nn.Module:
    amct.create_quant_config_fx(folder / "c.json", model)
    quantized = amct.create_quant_model_fx(folder / "c.json", model)
    amct.enable_quantization(quantized, calibration=True)
    with torch.no_grad():
        quantized(X)
    amct.enable_quantization(quantized, fake_quant=True)
    return quantized


@pytest.mark.parametrize(
    ("model", "place"),
    [(AsksForTheLength, "(behind 'bn', which agrees)"), (AsksForTheType, "'last' is the first module")],
)
def test_graph_that_is_not_the_model_is_not_saved(model: type[Net], place: str, tmp_path: Path) -> None:
    quantized = calibrated(model().eval(), tmp_path)
    with pytest.raises(ExportError, match=f"The traced graph of {model.__name__} does not compute") as caught:
        amct.save_quant_model_fx(quantized, tmp_path / "out" / "n", X)
    assert place in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_forward_that_agrees_runs_once(tmp_path: Path) -> None:
    calls: list[int] = []

    class Counts(Net):
        def forward(self, x: Tensor) -> Any:
            calls.append(0)
            return super().forward(x)

    quantized = calibrated(Counts().eval(), tmp_path)
    calls.clear()
    amct.save_quant_model_fx(quantized, tmp_path / "out" / "n", X)
    assert len(calls) == 1


def test_golden_inputs_are_compared_too(tmp_path: Path) -> None:
    class OneOnly(Net):
        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            try:
                scale = len(y) / 2
            except Exception:
                scale = 1
            return self.last(y * scale)

    quantized = calibrated(OneOnly().eval(), tmp_path)
    amct.save_quant_model_fx(quantized, tmp_path / "out" / "n", X)
    with pytest.raises(ExportError, match="does not compute what the model computes"):
        amct.save_quant_model_fx(quantized, tmp_path / "other" / "n", X, golden_inputs=X[:1])


@pytest.mark.parametrize("is_copied", [False, True], ids=["itself", "a copy"])
def test_trained_model_is_compared_with_its_present_weights(is_copied: bool, tmp_path: Path) -> None:
    model = Net().train()
    quantized = calibrated(model, tmp_path)
    quantized.train()
    optimizer = torch.optim.SGD(quantized.parameters(), lr=0.1)
    for _ in range(2):
        quantized(X)["y"].square().mean().backward()
        optimizer.step()
    quantized = copy.deepcopy(quantized) if is_copied else quantized
    assert not torch.equal(quantized.conv.weight, model.conv.weight)
    before = copy.deepcopy(quantized.state_dict())
    amct.save_quant_model_fx(quantized, tmp_path / "out" / "n", X)
    assert quantized.training
    assert all(torch.equal(value, quantized.state_dict()[name]) for name, value in before.items())
    with torch.no_grad():
        twin = quantized.twin
        quantized.conv.weight.add_(1)
        assert torch.equal(dict(twin._model.named_parameters())["conv.weight"], quantized.conv.weight)


def test_model_that_draws_random_numbers_is_not_compared(tmp_path: Path) -> None:
    check_against_twin(calibrated(Draws().eval(), tmp_path), (X,))


def test_model_can_be_pickled_without_its_class(tmp_path: Path) -> None:
    class Local(Net):
        pass

    torch.save(calibrated(Local().eval(), tmp_path), tmp_path / "q.pt")
    loaded = torch.load(tmp_path / "q.pt", weights_only=False)
    amct.save_quant_model_fx(loaded, tmp_path / "out" / "n", X)
