"""Damaged and hostile files end in exit code 2 and one line that names the file; 1 means a difference only."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from hotwheels.amct_pytorch.cli.main import main
from tests.fuzz.readers import readers

DEPLOY, FAKE, GOLDEN = "net_deploy_model.onnx", "net_fake_quant_model.onnx", "net_golden.npz"
TEXT, INPUT = "net_quant_param_record.txt", "in.npy"
VERIFY = ("verify", "net")
COMPARE = ("compare", "fake_quant", "real_quant", "--prefix", "net", "--input", INPUT)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {**readers()["deploy model"].around, INPUT: readers()["array"].seeds[0]}


@pytest.fixture
def folder(files, tmp_path: Path, monkeypatch) -> Path:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def metadata(content: bytes, value: str) -> bytes:
    model = onnx.load_from_string(content)
    next(one for one in model.metadata_props if one.key == "amct.deploy.v1").value = value
    return model.SerializeToString()


def member(content: bytes, name: str, new: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        for one in old.namelist():
            written.writestr(one, new if one.startswith(name) else old.read(one))
    return file.getvalue()


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 255]) + content[len(content) // 2 + 1 :]


def other(new: bytes) -> Callable[[bytes], bytes]:
    return lambda _: new


def outside(**entries: str) -> Callable[[bytes], bytes]:
    """Returns a function that puts the values of the first tensor into another file."""

    def change(content: bytes) -> bytes:
        model = onnx.load_from_string(content)
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        return model.SerializeToString()

    return change


def strings(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    model.graph.initializer[0].data_type = onnx.TensorProto.STRING
    return model.SerializeToString()


def without_strides(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    conv.attribute.append(onnx.helper.make_attribute("strides", [0, 0]))
    return model.SerializeToString()


def long_type(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    model.graph.node[0].op_type = "x" * 100_000
    return model.SerializeToString()


def npz_of_12_gb(content: bytes) -> bytes:
    return member(content, "accumulator/0/values", saved(np.zeros(3, np.int32)).replace(b"(3,)", b"(3000000000,)"))


CASES: dict[str, tuple[tuple[str, ...], str, Callable[[bytes], bytes]]] = {
    **{
        f"{name} {what}": (call, name, change)
        for call, name in ((VERIFY, DEPLOY), (VERIFY, GOLDEN), (COMPARE, FAKE), (COMPARE, INPUT))
        for what, change in (("half", half), ("empty", other(b"")), ("random", other(bytes(range(256)) * 20)))
    },
    "golden flipped": (VERIFY, GOLDEN, flipped),
    "golden shape": (VERIFY, GOLDEN, lambda one: member(one, "accumulator/0/shape", saved(np.zeros((2, 2))))),
    "golden digests": (VERIFY, GOLDEN, lambda one: member(one, "accumulator/0/blocks", saved(np.zeros((1, 8), "u1")))),
    "golden of 12 GB": (VERIFY, GOLDEN, npz_of_12_gb),
    "golden is an array": (VERIFY, GOLDEN, other(saved(np.zeros(3)))),
    "metadata list": (VERIFY, DEPLOY, lambda one: metadata(one, '{"layers": []}')),
    "metadata empty": (VERIFY, DEPLOY, lambda one: metadata(one, "{}")),
    "metadata types": (VERIFY, DEPLOY, lambda one: metadata(one, '{"layers": {"conv": {"num_bits_d": ["8"]}}}')),
    "metadata nested": (VERIFY, DEPLOY, lambda one: metadata(one, "[" * 100_000)),
    "external null character": (VERIFY, DEPLOY, outside(location="a\0b")),
    "external null character, compare": (COMPARE, FAKE, outside(location="a\0b")),
    "external file without a length": (COMPARE, FAKE, outside(location=DEPLOY)),
    "strings in bytes": (VERIFY, DEPLOY, strings),
    "strides of 0": (VERIFY, DEPLOY, without_strides),
    "an operator of 100,000 characters": (VERIFY, DEPLOY, long_type),
    "a field of 100,000 characters": (VERIFY, TEXT, lambda one: one + b"x" * 100_000 + b": 1\n"),
    "a layer of 100,000 characters": (
        VERIFY,
        TEXT,
        lambda one: one.replace(b'name: "', b'name: "' + b"x" * 100_000, 1),
    ),
    "parameters latin-1": (VERIFY, TEXT, lambda one: b"# \xe9\n" + one),
    "parameters half": (VERIFY, TEXT, half),
    "parameters twice": (VERIFY, TEXT, lambda one: one + one),
    "input of another shape": (COMPARE, INPUT, other(saved(np.zeros((2, 2), np.float32)))),
    "input is an archive": (COMPARE, INPUT, other(b"PK\x03\x04")),
    "input of 12 GB": (COMPARE, INPUT, lambda one: one.replace(b"(1, 3, 8, 8)", b"(9, 9999999)")),
    "record half": (("record", TEXT), TEXT, half),
}


@pytest.mark.parametrize(("call", "name", "change"), CASES.values(), ids=CASES)
def test_damage_is_exit_code_2_and_one_line(call, name: str, change, folder: Path, files, capsys) -> None:
    (folder / name).write_bytes(change(files[name]))
    assert main(call) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and len(error) < 1000
    assert name in error or (name == INPUT and "net_fake_quant_model.onnx" in error)  # a shape that the model refuses


def test_the_unchanged_files(folder: Path) -> None:
    assert main(VERIFY) == 0
    assert main(COMPARE) in (0, 1)


def test_a_difference_is_exit_code_1(folder: Path, files) -> None:
    model = onnx.load_from_string(files[DEPLOY])
    tensor = next(one for one in model.graph.initializer if "fc" in one.name and "weight" in one.name)
    changed = onnx.numpy_helper.to_array(tensor) + 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
    (folder / DEPLOY).write_bytes(model.SerializeToString())
    assert main(VERIFY) == 1


def test_external_data_outside_its_folder(folder: Path, files, capsys) -> None:
    (folder.parent / "secret.bin").write_bytes(bytes(1 << 16))
    model = onnx.load_from_string(files[DEPLOY])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    (folder / DEPLOY).write_bytes(model.SerializeToString())
    assert main(VERIFY) == 2
    assert "outside the folder of the model: '../secret.bin'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop"])
def test_what_is_no_file(kind: str, folder: Path, capsys) -> None:
    (folder / DEPLOY).unlink()
    if kind == "folder":
        (folder / DEPLOY).mkdir()
    elif kind == "pipe":
        os.mkfifo(folder / DEPLOY)
    else:
        (folder / DEPLOY).symlink_to("/dev/zero" if kind == "device" else DEPLOY)
    assert main(VERIFY) == 2
    assert DEPLOY in capsys.readouterr().err


def test_dumps_are_read_one_at_a_time(folder: Path) -> None:
    from hotwheels.amct_pytorch.report.tensors import read_dumps

    (folder / "dump").mkdir()
    np.save(folder / "dump" / "a_output0_2_pytorch.npy", np.ones(2, np.float32))
    (folder / "dump" / "b_output0_3_pytorch.npy").write_bytes(b"damaged")
    found = read_dumps(folder / "dump").results
    assert sorted(found) == ["a", "b"]
    assert found["a"].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"b_output0_3_pytorch\.npy"):
        found["b"]
