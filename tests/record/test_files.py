"""Checked paths and atomic writing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hotwheels.amct_pytorch.files import check_input_file, check_path, write_bytes_atomic, write_text_atomic


def test_parents_are_made_and_content_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_text_atomic(path, "层")
    write_bytes_atomic(str(path), b"new\n")
    assert path.read_bytes() == b"new\n"
    assert [one.name for one in path.parent.iterdir()] == ["c.txt"]


def test_new_file_has_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_text_atomic(tmp_path / "ours", "")
    assert stat.S_IMODE(os.stat(tmp_path / "ours").st_mode) == stat.S_IMODE(os.stat(tmp_path / "usual").st_mode)


def test_failure_leaves_the_old_file_and_no_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text_atomic(tmp_path / "c.txt", "old")

    def broken(source: object, target: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk"):
        write_text_atomic(tmp_path / "c.txt", "new")
    assert [one.read_text() for one in tmp_path.iterdir()] == ["old"]


def test_path_argument_is_str_or_path_like(tmp_path: Path) -> None:
    assert check_path("f", "config_file", str(tmp_path)) == check_path("f", "config_file", tmp_path) == tmp_path


@pytest.mark.parametrize(("value", "found"), [(3, "int"), (None, "NoneType"), (b"x", "bytes")])
def test_other_argument_is_a_type_error(value: object, found: str) -> None:
    message = rf"^f\(\): argument 'config_file' must be a path \(str or os\.PathLike\), not {found}\.$"
    with pytest.raises(TypeError, match=message):
        check_path("f", "config_file", value)


def test_missing_input_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^Record file '.*none' does not exist\.$"):
        check_input_file(tmp_path / "none", "Record file")
    with pytest.raises(FileNotFoundError, match=r"^Record file '.*' is a folder\.$"):
        check_input_file(tmp_path, "Record file")
