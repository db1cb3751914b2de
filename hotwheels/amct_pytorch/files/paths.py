"""Checks of paths that users give, and the names of the files of a save."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from ..errors import ConfigError

PathLike: TypeAlias = "str | os.PathLike[str]"


def check_path(function: str, argument: str, value: object) -> Path:
    """Returns the argument ``value`` of a public ``function`` as a Path.

    Raises:
      TypeError: ``value`` is neither a str nor a ``PathLike`` of str.
      ConfigError: It contains a null character, which no file name may have.
    """
    path = value if isinstance(value, str) else os.fspath(value) if isinstance(value, os.PathLike) else None
    if not isinstance(path, str):
        found = type(value).__name__
        raise TypeError(f"{function}(): argument '{argument}' must be a path (str or os.PathLike), not {found}.")
    if "\0" in path:
        raise ConfigError(f"{function}(): argument '{argument}' is {path!r}; a path cannot contain a null character.")
    return Path(path)


def check_distinct(function: str, **paths: Path | None) -> None:
    """Raises ConfigError if two of the ``paths``, by the names of their arguments, are the same file."""
    seen: dict[str, str] = {}
    for argument, path in paths.items():
        real = "" if path is None else os.path.realpath(path)
        if real and real in seen:
            raise ConfigError(
                f"{function}(): arguments '{seen[real]}' and '{argument}' are the same file, '{path}', and one would"
                " replace the other. Give each its own path."
            )
        seen[real] = argument


def check_target(function: str, argument: str, value: object) -> Path:
    """Returns the argument ``value`` as the Path of a file to write.

    Raises:
      TypeError: ``value`` is neither a str nor a ``PathLike`` of str.
      IsADirectoryError: It is a folder.
    """
    path = check_path(function, argument, value)
    if path.is_dir():
        raise IsADirectoryError(f"{function}(): argument '{argument}' is the folder '{path}'; give the path of a file.")
    return path


def check_input_file(path: PathLike, what: str) -> Path:
    """Returns ``path`` if it is an existing file; ``what`` names the expected kind of file in messages.

    Raises:
      FileNotFoundError: There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{what} '{path}' {found}.")
    return path


def output_path(prefix: PathLike, name: str) -> Path:
    """Returns ``<prefix>_<name>``, or ``<prefix><name>`` if ``prefix`` ends in a path separator (spec 11.1)."""
    text = os.fspath(prefix)
    is_folder = not text or text.endswith(tuple(filter(None, (os.sep, os.altsep))))
    return Path(f"{text}{name}" if is_folder else f"{text}_{name}")
