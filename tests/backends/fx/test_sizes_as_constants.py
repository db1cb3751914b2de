"""Sizes of the data that become constants of a layer: paddings, groups, repeated kernels; other sizes are refused."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from tests.support.exact_pair import assert_exact
from tests.support.fx_path import calibrate, run_fake, run_float
from tests.support.log_lines import LogLines


class Same(nn.Conv2d):
    """TensorFlow's padding, and blurs whose kernels are repeated or made for each channel."""

    def __init__(self) -> None:
        super().__init__(4, 6, 3, stride=2)
        self.register_buffer("blur", torch.rand(1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        margins = []
        for size in x.shape[-2:]:
            total = max((math.ceil(size / 2) - 1) * 2 + 3 - size, 0)
            margins[:0] = [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, margins), self.weight, self.bias, self.stride)
        channels = x.shape[1]
        x = F.conv2d(x, self.blur.expand(channels, 1, 3, 3), groups=channels)
        x = F.conv2d(x, x.new_full((channels, 1, 1, 2), 0.5), groups=channels)
        return F.conv2d(x, torch.ones(channels, 1, 2, 1, device=x.device) / 2, groups=x.size(1))


class Branch(nn.Conv2d):
    """A forward that doubles the results for large pictures."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * 2 if x.shape[2] > 20 else y


def _quantized(model: nn.Module, x: Tensor, folder: Path) -> QuantGraphModule:
    amct.create_quant_config_fx(folder / "config.json", model, input_data=(x,))
    quantized = amct.create_quant_model_fx(folder / "config.json", model, input_data=(x,))
    calibrate(quantized, [(x,)])
    return quantized


def test_layers_have_them_as_constants_for_any_batch(tmp_path: Path) -> None:
    model, x = Same().eval(), torch.randn(2, 4, 11, 10)
    quantized = _quantized(model, x, tmp_path)
    assert set(quantized.quantized_layers) == {"conv2d", "conv2d_1", "conv2d_2", "conv2d_3"}
    assert_exact(quantized, tmp_path, [x])
    graph = onnx.load(str(tmp_path / "exact_deploy_model.onnx")).graph
    assert "Pad" not in {node.op_type for node in graph.node}
    other = torch.randn(5, 4, 11, 10)
    torch.testing.assert_close(run_float(quantized, other), model(other))


def test_another_size_is_refused_where_the_constant_would_be_wrong(tmp_path: Path) -> None:
    model, x = Same().eval(), torch.randn(2, 4, 11, 10)
    quantized = _quantized(model, x, tmp_path)
    larger = torch.randn(1, 4, 15, 12)  # with the same margins
    torch.testing.assert_close(run_float(quantized, larger), model(larger))
    with pytest.raises(amct.UnsupportedModelError, match=r"It was \d when the model was traced and is \d now"):
        run_fake(quantized, torch.randn(1, 4, 10, 10))


@pytest.mark.parametrize(("model", "static"), [(Same, [2, 3]), (lambda: Branch(4, 4, 3), [2])], ids=["same", "branch"])
def test_an_axis_that_decides_is_static_in_the_files(
    model: type[nn.Module], static: list[int], tmp_path: Path, log_lines: LogLines
) -> None:
    x = torch.randn(2, 4, 11, 10)
    quantized = _quantized(model().eval(), x, tmp_path)
    setting = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n", 2: "h", 3: "w"}}}
    amct.save_quant_model_fx(quantized, tmp_path / "net", (x,), setting)
    (value,) = onnx.load(str(tmp_path / "net_fake_quant_model.onnx")).graph.input
    assert [index for index, size in enumerate(value.type.tensor_type.shape.dim) if not size.dim_param] == [1, *static]
    assert sum("is not dynamic in the files" in line for line in log_lines.warnings) == len(static)
