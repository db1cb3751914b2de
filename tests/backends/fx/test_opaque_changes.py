"""The user's code that is one call of the graph changes its argument in place: right, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.errors import UnsupportedModelError


@fx.wrap
def _halved(x: Tensor) -> Tensor:
    x[:, 0] *= 0.5
    return x + 1


@fx.wrap
def _moved(x: Tensor) -> Tensor:
    x.view(x.shape[0], -1).add_(1)
    return x


@fx.wrap
def _gated(x: Tensor) -> Tensor:
    return x.mul_(torch.sigmoid(x))


class _Leaf(nn.Module):
    amct_leaf = True

    def forward(self, x: Tensor) -> Tensor:
        """Changes ``x``."""
        x[:, 0] *= 0.5
        return x + 1


class _Net(nn.Module):
    def __init__(self, change: Callable[[nn.Module, Tensor], Tensor], is_read_later: bool) -> None:
        super().__init__()
        self.conv, self.leaf, self.last = nn.Conv2d(3, 4, 3), _Leaf(), nn.Conv2d(4, 4, 1)
        self._change, self._is_read_later = change, is_read_later

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self._change(self, y)
        result: Tensor = self.last(z) + y if self._is_read_later else self.last(z)
        return result


_CHANGES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "item": lambda _, x: _halved(x),
    "view": lambda _, x: _moved(x),
    "result": lambda _, x: _gated(x),
    "module": lambda model, x: model.leaf(x),  # type: ignore[operator]
}


@pytest.mark.parametrize("with_example", [False, True])
@pytest.mark.parametrize("name", _CHANGES)
def test_an_argument_that_nothing_reads_later_may_change(name: str, with_example: bool, tmp_path: Path) -> None:
    model, x = _Net(_CHANGES[name], is_read_later=False).eval(), torch.rand(2, 3, 8, 8)
    example = {"input_data": x} if with_example else {}
    amct.create_quant_config_fx(tmp_path / "config.json", model, **example)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model, **example)
    amct.enable_quantization(quantized, calibration=True)
    with torch.no_grad():
        wanted = model(x)
        assert torch.equal(quantized(x), wanted)
        amct.enable_quantization(quantized, real_quant=True)
        assert (quantized(x) - wanted).square().sum() < 1e-3 * wanted.square().sum()
    amct.save_quant_model_fx(quantized, tmp_path / "net", x, golden_inputs=x)


@pytest.mark.parametrize("with_example", [False, True])
@pytest.mark.parametrize("name", _CHANGES)
def test_a_change_that_is_read_later_is_refused(name: str, with_example: bool, tmp_path: Path) -> None:
    """With an example at once, without one by the first forward on integers: the change is not known before."""
    model, x = _Net(_CHANGES[name], is_read_later=True).eval(), torch.rand(2, 3, 8, 8)
    text = "changes the result of 'conv' in place, which is read later"
    if with_example:
        with pytest.raises(UnsupportedModelError, match=text):
            amct.create_quant_config_fx(tmp_path / "config.json", model, input_data=x)
        return
    amct.create_quant_config_fx(tmp_path / "config.json", model)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model)
    amct.enable_quantization(quantized, calibration=True)
    quantized(x)
    amct.enable_quantization(quantized, real_quant=True)
    with torch.no_grad(), pytest.raises(UnsupportedModelError, match=text):
        quantized(x)
