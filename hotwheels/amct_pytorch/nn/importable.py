"""Pickles functions by name that pickle wrongly takes for local functions, such as ``F.max_pool2d``."""

from __future__ import annotations

import importlib
import types
from typing import Any


def look_up(home: str, name: str) -> Any:
    """Returns the attribute ``name`` of the Python module ``home``; None if either does not exist."""
    try:
        return getattr(importlib.import_module(home), name, None)
    except ImportError:
        return None


def by_name(value: Any) -> Any:
    """Returns the object to pickle in place of ``value``; ``value`` itself unless it `is_misnamed`."""
    return _Named(value) if is_misnamed(value) else value


def is_misnamed(value: Any) -> bool:
    """Whether ``value`` has the ``__qualname__`` of a local function, but is found in its module by its name."""
    is_local = isinstance(value, types.FunctionType) and "<locals>" in value.__qualname__
    return is_local and look_up(value.__module__, value.__name__) is value


class _Named:
    """Takes the place of a function in a pickle; unpickling returns the function."""

    def __init__(self, function: types.FunctionType) -> None:
        self._function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return look_up, (self._function.__module__, self._function.__name__)
