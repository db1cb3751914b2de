"""Functions that pickle takes for local ones, such as ``F.max_pool2d``, saved by the name their module has for them."""

from __future__ import annotations

import importlib
import types
from typing import Any


def look_up(home: str, name: str) -> Any:
    """Returns an attribute of a Python module; None if there is none."""
    try:
        return getattr(importlib.import_module(home), name, None)
    except ImportError:
        return None


def by_name(value: Any) -> Any:
    """Returns what is to be pickled in place of ``value``, which comes back when that is read; mostly ``value``."""
    return _Named(value) if is_misnamed(value) else value


def is_misnamed(value: Any) -> bool:
    """Whether ``value`` is a function whose ``__qualname__`` is that of one inside another, but which has a name."""
    is_local = isinstance(value, types.FunctionType) and "<locals>" in value.__qualname__
    return is_local and look_up(value.__module__, value.__name__) is value


class _Named:
    """Stands for a function in a pickle."""

    def __init__(self, function: types.FunctionType) -> None:
        self._function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return look_up, (self._function.__module__, self._function.__name__)
