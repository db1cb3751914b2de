"""A save writes the graph and folds BatchNorms without computing; the file is compared with the user's own forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.write.flat_reference import FlatReference
from hotwheels.amct_pytorch.backends.writer.shape_example import NeedsData, ShapeExample
from tests.support.fx_path import quantize

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
NAMES = ("deploy_model.onnx", "fake_quant_model.onnx", "float_model.onnx", "quant_param_record.bin")


class Sizes(nn.Module):
    """Reads sizes, types and devices, changes views of results in place, and adds constants."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.last = nn.Linear(8, 3)
        nn.init.uniform_(self.norm.weight, 0.1, 2)
        self.place = nn.Parameter(torch.randn(1, 8, 1, 1))
        self.register_buffer("mean", torch.rand(8, 1, 1))

    def forward(self, x: Tensor) -> Any:
        y = self.norm(self.conv(x)) + self.place * 2 - self.mean
        y = y + torch.arange(y.shape[-1], device=y.device, dtype=y.dtype) + torch.ones_like(y) * y.new_full((1,), 3)
        y = F.interpolate(y.relu_(), size=(4, 4)).transpose(1, 2).contiguous().transpose(1, 2)
        first, second = y.flatten(2).mean(-1).split([1, 1])
        return self.last(torch.cat([second, first])), y.amax((1, 2, 3), keepdim=True)


class Distances(Sizes):
    """Has a call without handler, which torch's exporter writes."""

    def forward(self, x: Tensor) -> Any:
        return torch.cdist(super().forward(x)[0], torch.ones(1, 3))


def saved(model: nn.Module, folder: Path) -> list[bytes]:
    folder.mkdir()
    amct.save_quant_model_fx(quantize(model.eval(), folder, [(X,)]), folder / "net", X)
    return [(folder / f"net_{name}").read_bytes() for name in NAMES]


@pytest.mark.parametrize("model", [Sizes, Distances])
def test_the_files_are_those_of_a_run_with_data(
    model: type[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = saved(model(), tmp_path / "shapes")

    def refuse(self: ShapeExample) -> list[Tensor]:
        raise NeedsData("all of them")

    monkeypatch.setattr(ShapeExample, "tensors", refuse)
    assert found == saved(model(), tmp_path / "data")


def test_only_the_users_forward_and_the_file_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantized = quantize(Sizes().eval(), tmp_path, [(X,)])
    runs: list[str] = []
    monkeypatch.setattr(FlatReference, "outputs", lambda _: runs.append("the flat graph"))
    monkeypatch.setattr(type(quantized), "__call__", lambda *_: runs.append("the quantized graph"))
    amct.save_quant_model_fx(quantized, tmp_path / "net", X)
    assert runs == []


def test_a_call_that_needs_data_gets_them() -> None:
    example = ShapeExample({"x": X})
    (x,) = example.tensors()
    assert example.call(torch.add, (x, torch.ones(6)), {}).shape == X.shape
    assert example.call(Tensor.device.__get__, (x,), {}) == torch.device("cpu")  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors"):
        example.call(Tensor.item, (x.sum(),), {})
    with pytest.raises(NeedsData, match="a function of the user"):
        example.need_data("a function of the user")
