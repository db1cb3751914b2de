"""Checks of what callers pass in, once, at the door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..files import check_input_file, check_path


def check_type(function: str, argument: str, value: object, expected: type | tuple[type, ...], text: str) -> None:
    """Raises TypeError if ``value`` is not of the ``expected`` type, described by ``text``."""
    if not isinstance(value, expected):
        msg = f"{function}: argument '{argument}' must be {text}, got {type(value).__name__} ({value!r:.80})."
        raise TypeError(msg)


def check_model(function: str, value: object) -> nn.Module:
    """Returns ``value`` if it is a module."""
    check_type(function, "model", value, nn.Module, "a torch.nn.Module")
    return value  # type: ignore[return-value]


def check_existing(function: str, argument: str, value: object) -> Path:
    """Returns ``value`` as the Path of a file that exists; FileNotFoundError otherwise."""
    return check_input_file(check_path(function, argument, value), f"{function}: argument '{argument}':")


def check_aliases(function: str, name: str, value: Any, alias: str, alias_value: Any) -> Any:
    """Returns the one of two spellings of an argument that was given; TypeError if both were."""
    if value is not None and alias_value is not None:
        raise TypeError(f"{function}: '{name}' and '{alias}' are two spellings of one argument; pass one of them.")
    return value if value is not None else alias_value


def as_inputs(input_data: Any) -> tuple[Any, ...]:
    """Returns the positional arguments of a forward; a bare tensor is a tuple of one (SPEC 1.6)."""
    return tuple(input_data) if isinstance(input_data, (tuple, list)) else (input_data,)
