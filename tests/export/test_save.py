"""The files of spec 11.1."""

import os

import numpy as np
import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch.nn as amct_nn
from hotwheels.amct_pytorch.errors import ExportError
from hotwheels.amct_pytorch.export.save import write_files
from hotwheels.amct_pytorch.files import output_path
from hotwheels.amct_pytorch.files.seal import sealed_set
from hotwheels.amct_pytorch.onnx_io.model_file import load_model
from hotwheels.amct_pytorch.record import ActivationRecord, LayerRecord, Record, calibration_param, text_proto

ALWAYS = {
    "deploy_model.onnx", "fake_quant_model.onnx", "quant_param_record.bin", "quant_param_record.txt", "manifest.json"
}  # fmt: skip
RECORD = Record({"norm": LayerRecord(activations=(ActivationRecord(index=0, scale=0.5, offset=3),))})


@pytest.fixture
def float_model(marked, export_marked):
    net = nn.Sequential(marked("norm", amct_nn.LayerNorm(4)), nn.ReLU())
    return export_marked(net, [torch.rand(2, 4, 3, 3)])[0]


def save(float_model, record, prefix, **options):
    """Writes the files of one save."""
    with sealed_set(prefix) as files:
        write_files(files, float_model, record, prefix, **options)
    return files.paths


def test_names(float_model, tmp_path):
    written = save(float_model, RECORD, tmp_path / "out" / "net")
    assert {path.name for path in written} == {f"net_{name}" for name in ALWAYS} == set(os.listdir(tmp_path / "out"))


def test_folder_prefix_gives_the_bare_names(float_model, tmp_path):
    save(float_model, RECORD, f"{tmp_path}{os.sep}", with_float_model=True, with_record=True)
    assert set(os.listdir(tmp_path)) == ALWAYS | {"float_model.onnx", "scale_offset_record.txt"}


@pytest.mark.parametrize(("prefix", "path"), [("a/b", "a/b_x"), ("a/", "a/x"), ("", "x"), ("a.b", "a.b_x")])
def test_output_path(prefix, path):
    assert output_path(prefix, "x").as_posix() == path


def test_files_can_be_read_back(float_model, tmp_path, run):
    save(float_model, RECORD, tmp_path / "net", with_float_model=True, with_record=True)
    assert text_proto.read_record(tmp_path / "net_scale_offset_record.txt") == RECORD
    text = calibration_param.from_text((tmp_path / "net_quant_param_record.txt").read_text(), "text")
    assert text == calibration_param.from_binary((tmp_path / "net_quant_param_record.bin").read_bytes(), "binary")
    assert [layer.name for layer in text.layers] == ["norm", "/1/Relu"]
    x = np.random.default_rng(0).normal(0, 1, (3, 4, 3, 3)).astype(np.float32)
    outputs = [run(load_model(tmp_path / f"net_{name}_model.onnx"), x)[0] for name in ("float", "fake_quant")]
    assert outputs[0].shape == outputs[1].shape
    assert 0 < np.abs(outputs[0] - outputs[1]).max() < 1


def test_record_that_does_not_fit_leaves_old_files(float_model, tmp_path):
    save(float_model, RECORD, tmp_path / "net")
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    wrong = Record({"norm": LayerRecord(activations=(ActivationRecord(index=1, scale=0.5, offset=3),))})
    with pytest.raises(ExportError, match="input 1"):
        save(float_model, wrong, tmp_path / "net")
    assert before == {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
