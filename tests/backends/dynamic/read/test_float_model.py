"""The float ONNX of the dynamic path computes the same as the model, with BatchNorms folded (spec 3)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from hotwheels.amct_pytorch.backends.dynamic.backend import DynamicBackend
from hotwheels.amct_pytorch.backends.dynamic.read.float_model import read_settings
from hotwheels.amct_pytorch.config.dynamic.calibration_config import to_quant_config
from hotwheels.amct_pytorch.config.dynamic.expand_dynamic import expand_calibration
from hotwheels.amct_pytorch.errors import ExportError
from hotwheels.amct_pytorch.onnx_io.layer_sites import read_sites
from hotwheels.amct_pytorch.onnx_io.model_file import load_model, save_model
from hotwheels.amct_pytorch.plan.planner import make_plan
from tests.support.fx_path import run_onnx
from tests.support.nets import shake_batch_norms

NETS = {
    "convolution": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
    "without bias": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)),
    "groups": lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.BatchNorm2d(4)),
    "transposed, groups": lambda: nn.Sequential(nn.ConvTranspose2d(3, 6, 2, groups=3), nn.BatchNorm2d(6)),
}


def export(model: nn.Module, path: Path, x: torch.Tensor) -> None:
    backend = DynamicBackend(model, (x,))
    graph = backend.graph()
    config = to_quant_config(expand_calibration(graph, None), graph)
    save_model(backend.float_model(make_plan(graph, config), backend.folds(graph), {"a": 1}), path)


@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
def test_folded_weights(make, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = make(), torch.randn(2, 3, 6, 6)
    shake_batch_norms(model.eval())
    export(model, tmp_path / "m.onnx", x)
    onnx_model = load_model(tmp_path / "m.onnx")
    assert [node.op_type for node in onnx_model.graph] == ["ConvTranspose" if "Transpose" in str(model) else "Conv"]
    assert list(read_sites(onnx_model)) == ["0"]
    assert read_settings(onnx_model, "m.onnx") == {"a": 1}
    found = torch.from_numpy(run_onnx(tmp_path / "m.onnx", x)[0])
    torch.testing.assert_close(found, model(x).detach(), rtol=1e-5, atol=1e-6)


def test_file_of_another_origin(tmp_path: Path) -> None:
    torch.onnx.export(nn.ReLU(), (torch.ones(1),), tmp_path / "m.onnx", dynamo=False)
    with pytest.raises(ExportError, match=r"m.onnx.*not made by quantize_model"):
        read_settings(load_model(tmp_path / "m.onnx"), tmp_path / "m.onnx")
