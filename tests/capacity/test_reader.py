"""The capacity table: the installed file, and users' edits of a copy."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from hotwheels.amct_pytorch.capacity import read_capacity
from hotwheels.amct_pytorch.errors import ConfigError

INSTALLED = resources.files("hotwheels.amct_pytorch.capacity").joinpath("capacity_config.csv").read_text("utf-8")


def write(folder: Path, text: str) -> Path:
    path = folder / "capacity_config.csv"
    path.write_text(text, encoding="utf-8")
    return path


def appended(row: str, value: str) -> str:
    return "\n".join(f"{line}, {value}" if line.startswith(f"{row},") else line for line in INSTALLED.splitlines())


def test_installed_file_has_the_rows_of_the_contract() -> None:
    capacity = read_capacity()
    assert capacity.quantizable_types == ("Conv2d", "ConvTranspose2d", "Linear", "Conv1d", "ConvTranspose1d")
    assert capacity.quantizable_onnx_types == ("Conv", "ConvTranspose", "Gemm", "Conv", "ConvTranspose")
    assert capacity.channel_wise_types == ("Conv2d", "ConvTranspose2d", "Conv1d", "ConvTranspose1d")
    assert capacity.channel_wise_onnx_types == ("Conv", "ConvTranspose", "Conv", "ConvTranspose")
    norms = ("GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "RMSNorm")
    assert capacity.not_default_quant_types == ("Softsign", "Hardtanh", "BatchNorm1d", "Hardsigmoid", *norms)
    assert capacity.fuse_types == ("BatchNorm2d", "SyncBatchNorm", "BatchNorm1d")
    assert capacity.leaf_module_packages == ("torch.nn", "hotwheels.amct_pytorch.nn", "picovision.nn")
    pairs = capacity.pairs("NO_WEIGHT_QUANT")
    assert len(pairs) == 38
    assert pairs[0] == ("MaxPool2d", "MaxPool")
    assert pairs[5] == ("ReLU6", "Clip")
    assert pairs[14] == ("Hardtanh", "Clip")
    assert pairs[27:29] == (("DepthToSpace", "DepthToSpace"), ("Hardsigmoid", "HardSigmoid"))


def test_user_appends_a_pair(tmp_path: Path) -> None:
    text = appended("NO_WEIGHT_QUANT_TYPES", "XLayer").replace("\nFX", " , ONNX_XLayer,\nFX")
    path = write(tmp_path, text)
    assert read_capacity(path).pairs("NO_WEIGHT_QUANT")[-1] == ("XLayer", "ONNX_XLayer")


def test_blanks_byte_order_mark_and_empty_lines_are_accepted(tmp_path: Path) -> None:
    text = "\ufeff\n" + INSTALLED.replace(", ", " ,\t") + "\n,,,\n\nMY_ROW, bool, True\nMY_NAME,string, x \n"
    capacity = read_capacity(write(tmp_path, text))
    assert capacity == type(capacity)(**{**vars(read_capacity()), "extra": {"MY_ROW": True, "MY_NAME": "x"}})


def test_file_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path, INSTALLED)
    before = read_capacity(path)
    write(tmp_path, appended("FUSE_TYPES", "BatchNorm3d"))
    assert "BatchNorm3d" not in before.fuse_types
    assert "BatchNorm3d" in read_capacity(path).fuse_types


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FUSE_TYPES, list\n", r"line 1: a row needs a name, a type and a value, found 'FUSE_TYPES', 'list'\."),
        ("\nFUSE_TYPES, set, A\n", r"line 2: row 'FUSE_TYPES' has type 'set'; allowed: bool, list, string\."),
        ("A, bool, maybe\n", r"line 1: row 'A' of type 'bool' is 'maybe'; allowed: true, false\."),
        ("A, string, x, y\n", r"line 1: row 'A' of type 'string' has 2 values, expected 1\."),
        (INSTALLED + "FUSE_TYPES, list, A\n", r"line 15: row 'FUSE_TYPES' appears twice\."),
        ("FUSE_TYPES, list, A\n", r"row 'QUANTIZABLE_TYPES' is missing\."),
        (
            INSTALLED.replace("FUSE_TYPES, list", "FUSE_TYPE, list"),
            r"'FUSE_TYPES' is missing\. Did you mean 'FUSE_TYPE'",
        ),
        (appended("NO_WEIGHT_QUANT_TYPES", "X"), r"NO_WEIGHT_QUANT_TYPES has 39 values and .*ONNX_TYPES has 38"),
        (appended("CHANNEL_WISE_ONNX_TYPES", "Gemm"), r"CHANNEL_WISE_TYPES has 4 values and .*ONNX_TYPES has 5"),
    ],
)
def test_wrong_file_is_a_config_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        read_capacity(write(tmp_path, text))
    assert str(tmp_path) in str(raised.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_capacity(tmp_path / "none.csv")


def test_rows_of_the_file_in_the_environment_replace_the_installed_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.csv"
    own.write_text("NOT_DEFAULT_QUANT_TYPES, list, Softmax\nMINE, bool, true\n")
    installed = read_capacity()
    monkeypatch.setenv("AMCT_CAPACITY", str(own))
    found = read_capacity()
    assert found.not_default_quant_types == ("Softmax",)
    assert found.extra == {"MINE": True}
    assert found.fuse_types == installed.fuse_types
    own.write_text("NO_WEIGHT_QUANT_TYPES, list, Mine\n")
    with pytest.raises(ConfigError, match=r"own\.csv over .* same position in both"):
        read_capacity()
    monkeypatch.setenv("AMCT_CAPACITY", "")
    assert read_capacity() == installed
    monkeypatch.setenv("AMCT_CAPACITY", str(tmp_path / "none.csv"))
    with pytest.raises(FileNotFoundError, match=r"AMCT_CAPACITY names '.*none\.csv'"):
        read_capacity()
