"""Model files: checked, whole or not at all."""

import os

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from hotwheels.amct_pytorch.errors import ExportError
from hotwheels.amct_pytorch.onnx_io import model_file
from hotwheels.amct_pytorch.onnx_io.model_file import load_model, save_model

HEADER = '<ir_version: 7, opset_import: ["" : 13]> net (float[n, 4] x) => (float[n, 4] y) <float[4] w = {1, 2, 3, 4}>'


def parse(nodes):
    model = ir.from_proto(onnx.parser.parse_model(f"{HEADER} {{ {nodes} }}"))
    for node in model.graph:
        node.name = f"the_{node.op_type}"
    return model


def test_round_trip(tmp_path):
    model = parse("y = Add (x, w)")
    model.metadata_props["key"] = "value"
    save_model(model, tmp_path / "new" / "model.onnx")
    assert ir.to_proto(load_model(tmp_path / "new" / "model.onnx")) == ir.to_proto(model)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in ("a.onnx", "b.onnx"):
        save_model(parse("y = Add (x, w)"), tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("largest", [2**31, 0], ids=["small", "large"])
def test_refused_model_leaves_the_old_file(largest, tmp_path, monkeypatch):
    monkeypatch.setattr(model_file, "_LARGEST_MESSAGE", largest)
    path = tmp_path / "model.onnx"
    path.write_text("old")
    model = parse("y = Add (x, w)")
    model.graph[0].attributes.add(ir.AttrInt64("no_such_attribute", 1))
    with pytest.raises(ExportError, match=r"model.onnx' was not written(.|\n)*the_Add"):
        save_model(model, path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize("smallest", [1 << 14, 0], ids=["in the message", "on its own"])
def test_wrong_shapes_are_refused(smallest, tmp_path, monkeypatch):
    monkeypatch.setattr(model_file, "_SMALLEST", smallest)
    model = parse("y = Add (x, w)")
    model.graph.inputs[0].shape = ir.Shape(["n", 3])
    with pytest.raises(ExportError, match="the_Add"):
        save_model(model, tmp_path / "model.onnx")


def test_large_model_has_a_second_file(tmp_path, monkeypatch):
    monkeypatch.setattr(model_file, "_LARGEST_MESSAGE", 0)
    model = parse("y = Add (x, w)")
    wide = np.arange(1024, dtype=np.float32)
    model.graph.initializers["w"].const_value = ir.tensor(wide, name="w")
    model.graph.initializers["w"].shape = ir.Shape([1024])
    for value in (model.graph.inputs[0], model.graph.outputs[0]):
        value.shape = ir.Shape([1, 1024])
    save_model(model, tmp_path / "model.onnx")
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "model.onnx.data"]
    assert np.array_equal(load_model(tmp_path / "model.onnx").graph.initializers["w"].const_value.numpy(), wide)


def test_unreadable_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.onnx"):
        load_model(tmp_path / "no.onnx")
    (tmp_path / "text.onnx").write_text("this is no model")
    with pytest.raises(ExportError, match=r"text\.onnx' is not an ONNX model"):
        load_model(tmp_path / "text.onnx")
