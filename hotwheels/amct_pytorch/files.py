"""Files: checked paths, and writing that other processes never see half done (spec 1.6)."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

PathLike: TypeAlias = "str | os.PathLike[str]"


def check_path(function: str, argument: str, value: object) -> Path:
    """Returns the path which a caller gave to a public function.

    Raises:
      TypeError: ``value`` is neither a str nor a ``PathLike`` of str.
    """
    path = value if isinstance(value, str) else os.fspath(value) if isinstance(value, os.PathLike) else None
    if not isinstance(path, str):
        found = type(value).__name__
        raise TypeError(f"{function}(): argument '{argument}' must be a path (str or os.PathLike), not {found}.")
    return Path(path)


def check_input_file(path: PathLike, what: str) -> Path:
    """Returns ``path`` if it is an existing file; ``what`` says in messages what is expected there.

    Raises:
      FileNotFoundError: There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{what} '{path}' {found}.")
    return path


def write_text_atomic(path: PathLike, text: str) -> None:
    """Writes ``text`` as UTF-8; see `write_bytes_atomic`."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_bytes_atomic(path: PathLike, data: bytes) -> None:
    """Writes ``data`` in one step; see `open_atomic`."""
    with open_atomic(path) as file:
        file.write(data)


@contextlib.contextmanager
def open_atomic(path: PathLike) -> Iterator[BinaryIO]:
    """Opens a temporary file in the same folder and renames it at the end: readers see the old or the new file.

    Missing parent folders are created. Several processes may write the same path. An error leaves the old file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since renaming is atomic only there. Not tempfile: only their owner may read its files.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
