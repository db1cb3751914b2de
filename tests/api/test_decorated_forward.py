"""A decorator of the forward that sets an argument by its name, as those of Hugging Face's transformers do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.errors import UnsupportedModelError
from tests.support import dynamic_path
from tests.support.fx_path import calibrate, run_float

X = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.rand(1, 4, 6, 6, generator=torch.Generator().manual_seed(1))


def with_gain(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def called(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("gain", 2.0)
        return forward(self, *args, **kwargs)

    return called


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)

    @with_gain
    def forward(self, x: Tensor, mask: Tensor | None = None, gain: float = 1.0) -> Tensor:
        y = self.conv(x) * gain
        return y if mask is None else y * mask


CALLS: dict[str, tuple[Any, ...]] = {
    "a tensor": (X,),
    "by keyword": ({"x": X},),
    "both": (X, {"mask": MASK}),
    "by position": (X, MASK),
}


def call(model: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
    named = inputs[-1] if isinstance(inputs[-1], dict) else {}
    with torch.no_grad():
        return model(*(one for one in inputs if one is not named), **named)


@pytest.mark.parametrize("inputs", CALLS.values(), ids=CALLS)
def test_fx(inputs: tuple[Any, ...], tmp_path: Path) -> None:
    model = Net().eval()
    amct.create_quant_config_fx(tmp_path / "c.json", model, input_data=inputs)
    quantized = amct.create_quant_model_fx(tmp_path / "c.json", model, input_data=inputs)
    assert torch.equal(call(quantized, inputs), call(model, inputs))
    amct.enable_quantization(quantized, calibration=True)
    call(quantized, inputs)
    amct.save_quant_model_fx(quantized, tmp_path / "n", inputs)


def test_an_argument_that_was_left_out_is_fixed(tmp_path: Path) -> None:
    model = Net().eval()
    amct.create_quant_config_fx(tmp_path / "c.json", model, input_data=X)
    quantized = amct.create_quant_model_fx(tmp_path / "c.json", model, input_data=X)
    calibrate(quantized, [(X,)])
    assert torch.equal(run_float(quantized, X), call(model, (X,)))
    with pytest.raises(UnsupportedModelError, match="The argument 'gain' is fixed"):
        quantized(X, gain=3.0)


@pytest.mark.parametrize("inputs", CALLS.values(), ids=CALLS)
def test_dynamic(inputs: tuple[Any, ...], tmp_path: Path) -> None:
    model = Net().eval()
    files = dynamic_path.make_config(model, tmp_path, inputs)
    quantized = dynamic_path.quantize(model, files, inputs)
    expected = call(model, inputs)
    assert (call(quantized, inputs) - expected).abs().max() < expected.abs().max() / 64
    files.save()
