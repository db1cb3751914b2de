"""A forward that remembers is refused on both paths; a cache is not, and state in buffers is part of the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from tests.support import dynamic_path
from tests.support.log_lines import LogLines, log_lines

__all__ = ["log_lines"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 1)
        self.last: Any = None
        self.calls = 0
        self.kept: list[Any] = []
        self.register_buffer("count", torch.zeros(()))


class LastResult(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        self.last = y if self.last is None else y + self.last
        return self.last


class Counting(Net):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.conv(x) * self.calls


class Keeping(Net):
    def forward(self, x: Tensor) -> Tensor:
        self.kept.append(self.conv(x))
        return sum(self.kept)  # type: ignore[return-value]


class Caching(Net):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.last is None:
            self.last = torch.linspace(0, 1, 4).view(1, 4, 1, 1)
        self.kept = [self.conv(x) + self.last]
        return self.kept[0]


class CountingInBuffer(Net):
    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.conv(x) * self.count


def image() -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def quantize(model: nn.Module, folder: Path, **given: Any) -> nn.Module:
    amct.create_quant_config_fx(folder / "c.json", model, **given)
    quantized = amct.create_quant_model_fx(folder / "c.json", model, **given)
    amct.enable_quantization(quantized, calibration=True)
    quantized(image())
    amct.enable_quantization(quantized, fake_quant=True)
    return quantized


REMEMBERING = [(LastResult, "last"), (Counting, "calls"), (Keeping, "kept")]


@pytest.mark.parametrize(("cls", "name"), REMEMBERING)
def test_with_an_example_it_is_refused_at_creation(cls: type[nn.Module], name: str, tmp_path: Path) -> None:
    with pytest.raises(amct.UnsupportedModelError, match=f"called a second time .* keeps values in '{name}'"):
        quantize(cls().eval(), tmp_path, input_data=image())


@pytest.mark.parametrize(("cls", "name"), REMEMBERING)
def test_without_an_example_no_file_is_written(cls: type[nn.Module], name: str, tmp_path: Path) -> None:
    quantized = quantize(cls().eval(), tmp_path)
    with pytest.raises(amct.UnsupportedModelError, match=f"keeps values in '{name}'"):
        amct.save_quant_model_fx(quantized, tmp_path / "net", image())
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize(("cls", "name"), REMEMBERING)
def test_dynamic_path_refuses_it(cls: type[nn.Module], name: str, tmp_path: Path) -> None:
    with pytest.raises(amct.UnsupportedModelError, match=f"keeps values in '{name}'"):
        dynamic_path.make_config(cls().eval(), tmp_path, image())


def test_cache_is_no_memory(tmp_path: Path) -> None:
    amct.save_quant_model_fx(quantize(Caching().eval(), tmp_path, input_data=image()), tmp_path / "net", image())
    dynamic_path.make_config(Caching().eval(), tmp_path, image())


def test_files_hold_one_call_of_a_model_with_state_in_buffers(tmp_path: Path, log_lines: LogLines) -> None:
    quantized = quantize(CountingInBuffer().eval(), tmp_path, input_data=image())
    count = quantized.get_buffer("count").clone()
    amct.save_quant_model_fx(quantized, tmp_path / "net", image(), golden_inputs=image())
    assert any("changes its buffers ('count')" in line for line in log_lines.warnings)
    torch.testing.assert_close(quantized.get_buffer("count"), count, rtol=0, atol=0)
