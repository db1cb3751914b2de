"""Modules and parameters that are called like a keyword of Python, which torch.fx cannot write into its code."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.torch_private import keywords_in_paths


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(
            {"in": nn.Conv2d(3, 4, 3), "class": nn.Sequential(nn.Conv2d(4, 4, 1), nn.Softplus())}
        )
        self.scales = nn.ParameterDict({"is": nn.Parameter(torch.rand(4, 1, 1))})

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.parts["class"](self.parts["in"](x)) * self.scales["is"]
        return result


@pytest.mark.parametrize("with_example", [False, True])
def test_the_model_is_quantized_saved_and_copied(with_example: bool, tmp_path: Path, monkeypatch: Any) -> None:
    model, x = _Net().eval(), torch.rand(2, 3, 8, 8)
    example = {"input_data": x} if with_example else {}
    amct.create_quant_config_fx(tmp_path / "config.json", model, **example)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model, **example)
    assert torch.equal(quantized(x), model(x))
    amct.enable_quantization(quantized, calibration=True)
    quantized(x)
    amct.enable_quantization(quantized, real_quant=True)
    found = quantized(x)
    amct.save_quant_model_fx(quantized, tmp_path / "net", x, golden_inputs=x)
    for other in (copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        assert torch.equal(other(x), found)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert torch.equal(amct.graph_to_dynamic_module(quantized, tmp_path / "source")(x), found)


def test_torch_fx_is_as_before_when_the_last_thread_has_left() -> None:
    before = fx.graph._format_target
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        with keywords_in_paths():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=work)
    with keywords_in_paths():
        thread.start()
        entered.wait()
    assert fx.graph._format_target is not before
    leave.set()
    thread.join()
    assert fx.graph._format_target is before
