"""A save runs the float ONNX model and the graph: a difference is an error that names the node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.writer import handlers, table
from hotwheels.amct_pytorch.backends.writer.call import Call
from hotwheels.amct_pytorch.workflows import onnx_files
from tests.support.fx_path import quantize


class Net(nn.Module):
    """A layer, an operation that is none, a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(torch.floor(self.first(x) * 8) * 0.125)
        return y


class Noisy(nn.Module):
    """Draws random numbers in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y + torch.rand_like(y)


def test_a_wrong_translation_is_an_error_that_names_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ceil(call: Call, input: Tensor) -> table.Written:
        return call.op("Ceil", call.value(input))

    assert handlers.arithmetic, "the table is filled"
    x = torch.randn(1, 3, 5, 5)
    quantized = quantize(Net().eval(), tmp_path, [(x,)])
    monkeypatch.setitem(table._HANDLERS, "floor", (ceil, table.inspect.signature(ceil)))
    with pytest.raises(amct.ExportError, match=r"'output' differs by .* result of 'floor', made by node '/floor/Ceil'"):
        amct.save_quant_model_fx(quantized, tmp_path / "net", x)
    assert not list(tmp_path.glob("net*"))


@pytest.mark.parametrize(
    ("op_type", "attributes", "message"),
    [
        ("Transpose", {"perm": [0, 1, 3, 2]}, r"/floor/Transpose\): .* shape differ in dimension 2: \(6\) vs \(5\)"),
        ("Cast", {"to": 7}, r"/floor/Cast\): .* elem type differs"),
    ],
)
def test_shapes_and_types_are_those_of_torch(
    op_type: str, attributes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX's shape inference agrees with the tensors of the walk, also where no runtime could run the file."""

    def wrong(call: Call, input: Tensor) -> table.Written:
        return call.op(op_type, call.value(input), **attributes)

    x = torch.randn(1, 3, 5, 6)
    quantized = quantize(Net().eval(), tmp_path, [(x,)])
    monkeypatch.setitem(table._HANDLERS, "floor", (wrong, table.inspect.signature(wrong)))
    monkeypatch.setattr(onnx_files, "check_written", lambda *_: None)
    with pytest.raises(amct.ExportError, match=message):
        amct.save_quant_model_fx(quantized, tmp_path / "net", x)
    assert not list(tmp_path.glob("net*"))


def test_a_right_one_is_none(tmp_path: Path) -> None:
    x = torch.randn(1, 3, 5, 5)
    amct.save_quant_model_fx(quantize(Net().eval(), tmp_path, [(x,)]), tmp_path / "net", x)
    assert (tmp_path / "net_float_model.onnx").is_file()


def test_random_numbers_are_no_difference(tmp_path: Path) -> None:
    x = torch.randn(1, 3, 5, 5)
    amct.save_quant_model_fx(quantize(Noisy().eval(), tmp_path, [(x,)]), tmp_path / "net", x)
    assert (tmp_path / "net_float_model.onnx").is_file()
