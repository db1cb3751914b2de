"""Lists and dicts in a graph: those that a user's code gets are plain ones, in every mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import hotwheels.amct_pytorch as amct


@fx.wrap
def _summed(parts: list[Tensor], options: dict[str, Any]) -> Tensor:
    parts.append(parts[0] * options.pop("factor"))  # a torch.fx node holds lists and dicts that cannot be changed
    return torch.stack(parts).sum(0)


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.conv(x)
        return {"sum": _summed([y, y + 1], {"factor": 2}), "parts": [y, (y.relu(), {"last": y})]}


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("mode", ["float", "fake_quant", "real_quant"])
@pytest.mark.parametrize("is_watched", [False, True])
def test_results_have_the_types_of_the_forward(
    mode: str, is_watched: bool, with_gradient: bool, tmp_path: Path
) -> None:
    model, x = _Net().eval(), torch.rand(2, 3, 4, 4)
    amct.create_quant_config_fx(tmp_path / "config.json", model)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model)
    amct.enable_quantization(quantized, calibration=True)
    quantized(x)
    amct.enable_quantization(quantized, **({} if mode == "float" else {mode: True}))
    if is_watched:
        amct.enable_dump(quantized, tmp_path / "dump")
    with torch.set_grad_enabled(with_gradient):
        found = quantized(x)
    assert [type(one) for one in (found, found["parts"], found["parts"][1], found["parts"][1][1])] == [
        dict,
        list,
        tuple,
        dict,
    ]
    assert (found["sum"] - model(x)["sum"]).abs().max() < 0.1
