"""Checks of what callers pass in, once, at the door."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

PathLike = str | os.PathLike[str]


def check_type(function: str, argument: str, value: object, expected: type | tuple[type, ...], text: str) -> None:
    """Raises TypeError if ``value`` is not of the ``expected`` type, described by ``text``."""
    if not isinstance(value, expected):
        msg = f"{function}: argument '{argument}' must be {text}, got {type(value).__name__} ({value!r:.80})."
        raise TypeError(msg)


def check_path(function: str, argument: str, value: object) -> Path:
    """Returns ``value`` as a Path."""
    check_type(function, argument, value, (str, os.PathLike), "a path (str or os.PathLike)")
    return Path(value)  # type: ignore[arg-type]


def check_model(function: str, value: object) -> nn.Module:
    """Returns ``value`` if it is a module."""
    check_type(function, "model", value, nn.Module, "a torch.nn.Module")
    return value  # type: ignore[return-value]


def check_existing(function: str, argument: str, value: object) -> Path:
    """Returns ``value`` as the Path of a file that exists; FileNotFoundError otherwise."""
    path = check_path(function, argument, value)
    if not path.is_file():
        raise FileNotFoundError(f"{function}: argument '{argument}': there is no file '{path}'.")
    return path


def check_aliases(function: str, name: str, value: Any, alias: str, alias_value: Any) -> Any:
    """Returns the one of two spellings of an argument that was given; TypeError if both were."""
    if value is not None and alias_value is not None:
        raise TypeError(f"{function}: '{name}' and '{alias}' are two spellings of one argument; pass one of them.")
    return value if value is not None else alias_value


def as_inputs(input_data: Any) -> tuple[Any, ...]:
    """Returns the positional arguments of a forward; a bare tensor is a tuple of one (SPEC 1.6)."""
    return tuple(input_data) if isinstance(input_data, (tuple, list)) else (input_data,)
