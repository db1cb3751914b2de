"""Checked paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotwheels.amct_pytorch.files import check_input_file, check_path


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
