"""Rows appended to capacity_config.csv make operations quantizable on both paths, without any code (spec 9.6, 9.7)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch import capacity
from hotwheels.amct_pytorch.custom_op import discovery
from tests.support import fx_path
from tests.support.dynamic_nets import images
from tests.support.dynamic_path import calibrated, make_config, run


class Magnitude(amct.CustomModuleBase):
    onnx_type = "Abs"
    num_inputs = 1

    def forward(self, x: Tensor) -> Tensor:
        return torch.abs(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.softplus = nn.Softplus()
        self.magnitude = Magnitude()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.magnitude(self.softplus(self.conv(x)) - 1)


@pytest.fixture
def csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the installed table, read in its place."""
    installed = Path(capacity.reader.__file__).with_name("capacity_config.csv")
    copied = tmp_path / "capacity_config.csv"
    copied.write_text(installed.read_text())
    monkeypatch.setattr(capacity.reader, "_FILE", str(copied))
    return copied


def append(csv: Path, torch_type: str, onnx_type: str) -> None:
    new = {"NO_WEIGHT_QUANT_TYPES,": torch_type, "NO_WEIGHT_QUANT_ONNX_TYPES,": onnx_type}
    lines = csv.read_text().splitlines()
    csv.write_text("\n".join(f"{one}, {new[one.split()[0]]}" if one.split()[0] in new else one for one in lines))


def test_nothing_is_listed_at_first(csv: Path, tmp_path: Path) -> None:
    document = make_config(Net(), tmp_path, images(2)[0]).document
    assert "conv" in document and "softplus" not in document and "magnitude" not in document


@pytest.fixture
def listed(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_known", dict(discovery._known))
    amct.register_custom_op(Magnitude)
    append(csv, "Softplus", "Softplus")
    append(csv, "Magnitude", "Abs")


def test_dynamic_path(listed: None, tmp_path: Path) -> None:
    quantized, files = calibrated(Net(), tmp_path, images(2), dynamic_axes={"x": [0], "output": [0]})
    assert list(files.record.layers) == ["conv", "softplus", "magnitude"]
    files.save()
    other = images(3)[0]
    found = fx_path.run_onnx(files.fake_quant, *other)[0]
    step = files.record.layers["magnitude"].activations[0].scale
    assert fx_path.steps_apart(found, run(quantized, *other), step).max() <= 1


def test_fx_path(listed: None, tmp_path: Path) -> None:
    batches = images(2)
    quantized = fx_path.quantize(Net(), tmp_path, batches)
    assert list(quantized.quantized_layers) == ["conv", "softplus", "sub", "magnitude"]  # functions are layers, too
    amct.save_quant_model_fx(quantized, tmp_path / "model", batches[0])
    found = fx_path.run_onnx(tmp_path / "model_fake_quant_model.onnx", *batches[0])[0]
    step = quantized.quantized_layers["magnitude"].record().activations[0].scale
    assert fx_path.steps_apart(found, fx_path.run_fake(quantized, *batches[0]), step).max() <= 1
