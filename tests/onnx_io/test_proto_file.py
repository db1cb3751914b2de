"""What an ONNX file claims is compared with what it holds, before memory is taken or another file opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from hotwheels.amct_pytorch.errors import ExportError, ModelFileError, RecordError
from hotwheels.amct_pytorch.onnx_io.model_file import load_model
from hotwheels.amct_pytorch.onnx_io.proto_file import read_proto

GRAPH = '<ir_version: 8, opset_import: ["": 13]> g (float[1, 4] x) => (float[1, 4] y) { y = Add (x, w) }'
VALUES = np.arange(4, dtype=np.float32)


def model() -> onnx.ModelProto:
    found = onnx.parser.parse_model(GRAPH)
    found.graph.initializer.append(onnx.numpy_helper.from_array(VALUES, "w"))
    return found


def external(location: str, **more: int) -> onnx.ModelProto:
    found = model()
    tensor = found.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    return found


def with_tensor(**fields: object) -> onnx.ModelProto:
    found = model()
    tensor = found.graph.initializer[0]
    for name, value in fields.items():
        tensor.ClearField(name)
        if isinstance(value, list):
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)
    return found


def with_functions(depth: int, width: int, *, recursive: bool = False) -> onnx.ModelProto:
    found = model()
    found.opset_import.add(domain="own", version=1)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
    for level in range(depth):
        inner = f"f{level - 1}" if level else "f0" if recursive else "Identity"
        nodes = [helper.make_node(inner, ["a"], ["b"], domain="own" if inner != "Identity" else "")] * width
        found.functions.append(helper.make_function("own", f"f{level}", ["a"], ["b"], nodes, opsets))
    found.graph.node.append(helper.make_node(f"f{depth - 1}", ["x"], ["z"], domain="own"))
    return found


def written(content: onnx.ModelProto | bytes, folder: Path) -> Path:
    path = folder / "given.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto | bytes], str]] = {
    "empty": (lambda: b"", "it has no graph"),
    "text": (lambda: b"this is no model", "is not an ONNX model"),
    "half": (lambda: model().SerializeToString()[:40], "is not an ONNX model"),
    "12 GB of 16 bytes": (lambda: with_tensor(dims=[3, 1 << 30]), "has 16 bytes"),
    "too few bytes": (lambda: with_tensor(dims=[5]), r"has 16 bytes; \[5\] needs 20"),
    "negative size": (lambda: with_tensor(dims=[-4]), r"has the shape \[-4\]"),
    "unknown type": (lambda: with_tensor(data_type=99), "unknown element type 99"),
    "no type": (lambda: with_tensor(data_type=0), "unknown element type 0"),
    "outside": (lambda: external("../outside.bin"), "outside the folder of the model: '../outside.bin'"),
    "absolute": (lambda: external("/etc/passwd"), "outside the folder of the model: '/etc/passwd'"),
    "link": (lambda: external("link.bin"), "outside the folder of the model: 'link.bin'"),
    "device": (lambda: external("zero.bin"), "outside the folder of the model"),
    "missing": (lambda: external("missing.bin"), "which is missing"),
    "folder": (lambda: external("."), "which is missing"),
    "short file": (lambda: external("short.bin"), "wants 16 bytes at 0 of 'short.bin', which has 3"),
    "offset": (lambda: external("data.bin", offset=8), "wants 16 bytes at 8 of 'data.bin', which has 16"),
    "length": (lambda: external("data.bin", length=12_000_000_000), "wants 12,000,000,000 bytes"),
    "negative offset": (lambda: external("data.bin", offset=-8), "external data that cannot be read"),
    "name": (lambda: model().SerializeToString().replace(b"Add", b"A\xffd"), "a name that is not UTF-8: b'A"),
    "function of itself": (lambda: with_functions(1, 1, recursive=True), "a local function that calls itself"),
    "functions of functions": (lambda: with_functions(9, 9), "stand for more than 1,048,576 nodes"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "outside.bin").write_bytes(VALUES.tobytes())
    (inner / "data.bin").write_bytes(VALUES.tobytes())
    (inner / "short.bin").write_bytes(b"abc")
    os.symlink(tmp_path / "outside.bin", inner / "link.bin")
    os.symlink("/dev/zero", inner / "zero.bin")
    return inner


@pytest.mark.parametrize("read", [read_proto, load_model])
@pytest.mark.parametrize(("make", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_models_are_refused(make: Callable[[], onnx.ModelProto | bytes], message: str, read, folder) -> None:
    path = written(make(), folder)
    with pytest.raises(ModelFileError, match=message) as raised:
        read(path)
    assert f"'{path}'" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, RecordError) and isinstance(raised.value, ExportError)


def test_data_in_the_folder_is_read(folder: Path) -> None:
    path = written(external("data.bin", offset=0, length=16), folder)
    assert np.array_equal(onnx.numpy_helper.to_array(read_proto(path).graph.initializer[0]), VALUES)
    assert read_proto(path, with_external_data=False).graph.initializer[0].data_location == TensorProto.EXTERNAL
    assert np.array_equal(load_model(path).graph.initializers["w"].const_value.numpy(), VALUES)


def test_many_parts_are_refused(folder: Path) -> None:
    found = model()
    found.graph.node.extend([onnx.NodeProto()] * (1 << 20))
    with pytest.raises(ModelFileError, match="nodes, values, attributes and tensors; an ONNX model may have at most"):
        read_proto(written(found, folder))
