"""Models above 2 GiB: tensors in a second file, and a save that makes no second copy of them (spec 11.1)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.onnx_io import model_file
from hotwheels.amct_pytorch.oracle.digest import verify
from tests.support.fx_path import quantize, run_fake

FILES = ("deploy", "fake_quant", "float")


class Both(nn.Module):
    """Weights as they lie in memory (a convolution) and transposed (a Linear of tokens)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.conv(x).flatten(2).transpose(1, 2))
        return y


def test_tensors_in_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "_LARGEST_MESSAGE", 0)
    x = torch.randn(1, 128, 3, 3)
    quantized = quantize(Both(128).eval(), tmp_path, [(x,)])
    amct.save_quant_model_fx(quantized, tmp_path / "net", x, golden_inputs=x)
    for kind in FILES:
        path = tmp_path / f"net_{kind}_model.onnx"
        assert path.stat().st_size < 30_000 < path.with_name(f"{path.name}.data").stat().st_size
        onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "net_fake_quant_model.onnx")
    (found,) = session.run(None, {"x": x.numpy()})
    expected = run_fake(quantized, x).numpy()
    assert np.abs(found - expected).max() <= 0.01 * np.abs(expected).max()
    assert all(one.is_ok for one in verify(tmp_path / "net"))


def _kibibytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of memory")
def test_a_save_holds_no_copy_of_the_weights(tmp_path: Path) -> None:
    x = torch.randn(1, 16, 1, 1)
    amct.save_quant_model_fx(quantize(Both(16).eval(), tmp_path, [(x,)]), tmp_path / "small", x)  # loads all libraries
    width = 3000
    size = 2 * width * width * 4 // 1024
    x = torch.randn(1, width, 1, 1)
    quantized = quantize(Both(width).eval(), tmp_path, [(x,)])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from now
    before = _kibibytes("VmRSS:")
    amct.save_quant_model_fx(quantized, tmp_path / "large", x)
    # Pieces of 4 MiB are; one more copy of either weight would be 0.5.
    assert (_kibibytes("VmHWM:") - before) / size < 0.4
