"""Reads configuration files as text."""

from __future__ import annotations

from ...errors import ConfigError
from ...files import PathLike, check_input_file


def read_text(path: PathLike, what: str) -> str:
    """Returns the content of a UTF-8 file, with or without byte order mark; ``what`` says in messages what it is.

    Raises:
      FileNotFoundError: There is no such file.
      ConfigError: It is not UTF-8.
    """
    path = check_input_file(path, what)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} '{path}' is not a UTF-8 text: {error}.") from error
