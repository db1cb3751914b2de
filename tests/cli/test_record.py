"""``amct record``: the table and the conversions."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotwheels.amct_pytorch.record import calibration_param
from tests.cli.conftest import Amct

PREFIX = "out/net"


@pytest.fixture
def prefix(quantized: Path) -> Path:
    return quantized / "out" / "net"


def test_table_of_a_record(amct: Amct, prefix: Path) -> None:
    ran = amct("record", f"{prefix}_scale_offset_record.txt")
    titles, *rows = (line.split() for line in ran.out.splitlines())
    assert titles[:3] == ["layer", "tensor", "bits"]
    assert [row[:3] for row in rows] == [
        ["conv", "input", "0"],
        ["conv", "weight", "8"],
        ["mean", "input", "0"],
        ["fc", "input", "0"],
        ["fc", "weight", "8"],
    ]


@pytest.mark.parametrize("suffix", ["txt", "bin"])
def test_table_of_a_parameter_file(amct: Amct, prefix: Path, suffix: str) -> None:
    ran = amct("record", f"{prefix}_quant_param_record.{suffix}")
    assert ran.code == 0
    nodes = {line.split()[0] for line in ran.out.splitlines()[1:]}
    assert {"conv", "mean", "fc"} <= nodes


def test_text_to_binary_and_back(amct: Amct, prefix: Path, tmp_path: Path) -> None:
    text, binary = Path(f"{prefix}_quant_param_record.txt"), Path(f"{prefix}_quant_param_record.bin")
    assert amct("record", text, "-o", tmp_path / "a.bin").code == 0
    assert (tmp_path / "a.bin").read_bytes() == binary.read_bytes()
    assert amct("record", binary, "-o", tmp_path / "a.txt").code == 0
    wanted, found = (calibration_param.from_text(one.read_text(), "text") for one in (text, tmp_path / "a.txt"))
    assert found == wanted


def test_an_older_layout_becomes_the_present_one(amct: Amct, tmp_path: Path) -> None:
    old = tmp_path / "old.txt"
    old.write_text('record { key: "conv" value { scale_d: 0.5 offset_d: -3 scale_w: 0.25 offset_w: 0 } }\n')
    ran = amct("record", old, "-o", tmp_path / "new.txt")
    assert ran.code == 0, ran.err
    text = (tmp_path / "new.txt").read_text()
    assert "record_d {" in text
    assert "offset_d: -3" in text
    assert amct("record", tmp_path / "new.txt").out == amct("record", old).out


@pytest.mark.parametrize(
    ("name", "content", "more", "text"),
    [
        ("gone.txt", None, (), "does not exist"),
        ("a.txt", b"nothing of the kind", (), "is neither a record nor a parameter file"),
        ("a.txt", b"record { key: 3 }", (), "a.txt"),
        ("a.txt", b"\xff\xfe", (), "is not a UTF-8 text"),
        ("a.bin", b"\xff\xff\xff", (), "is not a quantization parameter file"),
        ("a.txt", b"record { key: 'a' value { scale_w: 1 offset_w: 0 } }", ("-o", "b.bin"), "has no binary form"),
        ("a.txt", b"record { key: 'a' value { scale_w: 1 offset_w: 0 } }", ("-o", "b.xml"), "must end in .txt or .bin"),
    ],
    ids=["no file", "other text", "wrong field", "no text", "damaged", "record as bin", "other ending"],
)
def test_bad_files(
    amct: Amct, folder: Path, name: str, content: bytes | None, more: tuple[str, ...], text: str
) -> None:
    if content is not None:
        (folder / name).write_bytes(content)
    ran = amct("record", name, *more)
    assert ran.code == 2
    assert text in ran.error
