"""The user's names of inputs, outputs and axes, on both paths: completed, or refused before a file is written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from tests.support.fx_path import quantize
from tests.support.log_lines import LogLines

X = torch.randn(2, 3, 4, 4)
Save = Callable[[Path, dict[str, Any]], onnx.ModelProto]


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, a: Tensor, x: Tensor) -> Tensor:
        y: Tensor = self.conv(a + x)
        return y


def fx(folder: Path, names: dict[str, Any]) -> onnx.ModelProto:
    quantized = quantize(TwoInputs().eval(), folder, [(X, X)])
    amct.save_quant_model_fx(quantized, folder / "net", (X, X), names)
    return onnx.load(folder / "net_float_model.onnx")


def dynamic(folder: Path, names: dict[str, Any]) -> onnx.ModelProto:
    model, config = TwoInputs().eval(), folder / "config.json"
    amct.create_quant_config(config, model, (X, X))
    amct.quantize_model(config, folder / "net.onnx", folder / "record.txt", model, (X, X), **names)
    return onnx.load(folder / "net.onnx")


def shapes(values: Any) -> dict[str, list[int | str]]:
    return {one.name: [d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim] for one in values}


@pytest.mark.parametrize("save", [fx, dynamic])
def test_names_that_are_missing_are_those_of_the_arguments(save: Save, tmp_path: Path, log_lines: LogLines) -> None:
    axes = {"b": [0], "x": {0: "b_dynamic_axes_1"}, "output": {0: "n"}, "image": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = save(tmp_path, {"input_names": ["b"], "dynamic_axes": axes}).graph
    assert shapes(graph.input) == {"b": ["b_dynamic_axes_1", 3, 4, 4], "x": ["b_dynamic_axes_1", 3, 4, 4]}
    assert [one.name for one in graph.output] == ["output"]
    said = [one for one in log_lines.warnings if "dynamic_axes" in one]
    assert (
        len(said) == 1
        and "'image' is ignored, no input or output has that name. Inputs: b, x; outputs: output" in said[0]
    )


WRONG = [
    ({"input_names": ["a", "b", "c"]}, r"input_names has 3 names \(a, b, c\), but the model has 2"),
    ({"input_names": ["x"]}, "input_names: two tensors would be called 'x': x, x"),
    ({"output_names": ["y", "z"]}, "output_names has 2 names|output names provided \\(2\\) exceeded"),
    ({"output_names": ["x"]}, "output_names: 'x' is the name of an input, too"),
]


@pytest.mark.parametrize("save", [fx, dynamic])
@pytest.mark.parametrize(("names", "message"), WRONG)
def test_names_that_do_not_fit_are_refused(save: Save, tmp_path: Path, names: dict[str, Any], message: str) -> None:
    with pytest.raises(amct.ExportError, match=message):
        save(tmp_path, names)
    assert not [*tmp_path.glob("net*")]
