"""Dotted paths in a configuration become the objects they name (spec 6.6).

HiSilicon's AMCT manual, chapter "User-defined quantization algorithms" [自定义量化算法].
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError

# torch is moving its quantization classes; configurations in use spell the old place.
_MOVED = {"torch.quantization.": "torch.ao.quantization."}


def import_class(path: str, layer: str) -> type:
    """Returns the class at ``path``.

    Raises:
      ConfigError: Nothing can be imported from there, or it is no class.
    """
    found = _resolve(path)
    if not isinstance(found, type):
        what = "nothing can be imported from there" if found is None else f"found {found!r}, which is no class"
        msg = f"Layer '{layer}': '{path}' must be the full path of a class (package.module.Class): {what}."
        raise ConfigError(msg)
    return found


def resolve_arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``args`` with every string that has a dot and names an importable object replaced by that object."""
    return {name: _resolve_value(value) for name, value in args.items()}


def _resolve_value(value: Any) -> Any:
    if not isinstance(value, str) or "." not in value:
        return value
    found = _resolve(value)
    return value if found is None else found


def _resolve(path: str) -> Any:
    """The object at ``path`` or at the place it moved to; None if there is none."""
    places = [path, *(path.replace(old, new, 1) for old, new in _MOVED.items() if path.startswith(old))]
    return next((found for found in map(_import, places) if found is not None), None)


def _import(path: str) -> Any:
    """The attribute behind the longest importable module prefix of ``path``; None if there is none."""
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    for cut in range(len(parts) - 1, 0, -1):
        module_path = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module_path)
        except ModuleNotFoundError as error:
            if not (module_path + ".").startswith(f"{error.name}."):
                raise  # the module is there, but one that it imports is not
            continue
        for part in parts[cut:]:
            found = getattr(found, part, None)
        return found
    return None
