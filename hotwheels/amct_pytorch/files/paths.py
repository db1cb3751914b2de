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
      OSError: There cannot be such a file, as `check_possible`.
    """
    path = check_path(function, argument, value)
    check_possible(function, argument, path)
    if path.is_dir():
        raise IsADirectoryError(f"{function}(): argument '{argument}' is the folder '{path}'; give the path of a file.")
    return path


def check_folder(function: str, argument: str, value: object) -> Path:
    """Returns the argument ``value`` as the Path of a folder to write into, which need not exist.

    Raises:
      TypeError: ``value`` is neither a str nor a ``PathLike`` of str.
      NotADirectoryError: It is a file.
      OSError: There cannot be such a folder, as `check_possible`.
    """
    path = check_path(function, argument, value)
    check_possible(function, argument, path)
    if path.is_file():
        raise NotADirectoryError(
            f"{function}(): argument '{argument}' is the file '{path}'; give the path of a folder."
        )
    return path


def check_writable(function: str, argument: str, path: Path) -> None:
    """Raises PermissionError, with the argument, if the folder ``path`` cannot be written to, or cannot be made."""
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{function}(): argument '{argument}': you may not write into the folder '{there}'.")


def check_possible(function: str, argument: str, path: Path) -> None:
    """Raises OSError, with the argument, if the system can have no such path.

    A name is too long, a file is in the place of one of the folders, or a folder may not be searched.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        file = next((one for one in path.parents if one.is_file()), path.parent)
        raise NotADirectoryError(
            f"{function}(): argument '{argument}' is '{path}', but '{file}' is a file, not a folder. Give another path."
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(f"{function}(): argument '{argument}' is '{path}': {reason}. Give another path.") from error


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
