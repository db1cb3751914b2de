"""Reads configuration files as text."""

from __future__ import annotations

from ...errors import ConfigError
from ...files import PathLike, check_input_file
from ...files.limits import Limit, read_limited


def read_text(path: PathLike, what: str, limit: Limit) -> str:
    """Returns the content of a UTF-8 file, with or without byte order mark; ``what`` names its kind in messages.

    Raises:
      FileNotFoundError: There is no such file.
      ConfigError: It is not UTF-8, or larger than ``limit``.
    """
    path = check_input_file(path, what)
    content = read_limited(path, limit)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} '{path}' is not a UTF-8 text: {error}.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
