"""Replaces dotted paths in a configuration by the classes and values they name; no other code runs (spec 6.6).

HiSilicon's AMCT manual, chapter "User-defined quantization algorithms" [自定义量化算法]. docs/security.md says why.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ...errors import ConfigError
from ...log import get_logger
from .trusted import VARIABLE, is_named, is_trusted

_LOGGER = get_logger(__name__)
# torch is moving its quantization classes; existing configurations name the old place.
_MOVED = {"torch.quantization.": "torch.ao.quantization."}
_VALUES = (torch.dtype, torch.qscheme, torch.layout, torch.memory_format, torch.device, bool, int, float)
_GRID = ("scale", "zero_point")
_OBSERVER = "observer"  # argument of a fake quantizer: the class of its observer, which it calls


def import_quantizer(path: str, layer: str) -> type[nn.Module]:
    """Returns the class at ``path``: a ``torch.nn.Module`` with ``scale`` and ``zero_point``.

    Raises:
      ConfigError: Not such a class, or its package is not allowed or cannot be imported.
    """
    cls = _import_module_class(path, layer)
    missing = [name for name in _GRID if not _has_member(cls, name)]
    if missing:
        raise ConfigError(
            f"Layer '{layer}': {path} has no attribute {' and '.join(missing)}; derive the class from"
            " torch.quantization.FakeQuantizeBase, or annotate both in its body."
        )
    return cls


def import_observer(path: str, layer: str) -> type[nn.Module]:
    """Returns the class at ``path``: a ``torch.nn.Module`` with ``calculate_qparams``.

    Raises:
      ConfigError: Not such a class, or its package is not allowed or cannot be imported.
    """
    found = _resolve(path, layer)
    _check_observer(found, found, path, layer)
    cls: type[nn.Module] = found
    return cls


def _import_observer_or_preset(path: str, layer: str) -> Callable[..., nn.Module]:
    """Returns the observer class at ``path``, or torch's preset of such a class (``default_observer``).

    Raises:
      ConfigError: Neither of the two, or its package is not allowed or cannot be imported.
    """
    found = _resolve(path, layer)
    _check_observer(found.p.func if _is_preset(found) else found, found, path, layer)
    observer: Callable[..., nn.Module] = found
    return observer


def _check_observer(cls: Any, found: Any, path: str, layer: str) -> None:
    if not _is_module_class(cls) or not callable(getattr(cls, "calculate_qparams", None)):
        raise ConfigError(
            f"Layer '{layer}': observer '{path}' must be the full path of a class that is a subclass of torch.nn.Module"
            f" with calculate_qparams, such as torch.quantization.MinMaxObserver: {_what(found)}. {_RULE}"
        )


def resolve_arguments(args: Mapping[str, Any], home: str, layer: str) -> dict[str, Any]:
    """Returns ``args`` of the class at ``home`` with dotted strings replaced by the objects they name.

    ``observer`` becomes an observer class. Another string becomes a value of torch (``torch.qint8``), a class of torch,
    or a class or object of the package of ``home`` or of an allowed package. All others stay strings, and nothing is
    imported for them.

    Raises:
      ConfigError: ``observer`` names no observer class, or a package cannot be imported.
    """
    return {name: _argument(name, value, home, layer) for name, value in args.items()}


_RULE = (
    "A configuration names classes, it runs nothing (docs/security.md); amct.allow_quantizers and the environment"
    f" variable {VARIABLE} name the packages."
)


def _argument(name: str, value: Any, home: str, layer: str) -> Any:
    if not isinstance(value, str) or "." not in value:
        return value
    if name == _OBSERVER:
        return _import_observer_or_preset(value, layer)
    if not is_named(value, home) or not is_trusted(value):
        if all(part.isidentifier() for part in value.split(".")):
            _LOGGER.debug("Layer '%s': '%s' of %s stays a string. %s", layer, value, home, _RULE)
        return value
    found = _resolve(value, layer)
    if found is None or not _may_be_argument(found, value, home):
        return value
    return found


def _may_be_argument(found: Any, path: str, home: str) -> bool:
    """Whether a foreign class may get the object: only values, and code of its own package or of an allowed package."""
    is_of_torch = path.startswith("torch.")
    if isinstance(found, _VALUES):
        return True
    if not is_named(str(getattr(found, "__module__", home)), home):
        return False  # subprocess.Popen by way of a package that imports it
    return isinstance(found, type) or not (is_of_torch or isinstance(found, types.ModuleType))


def _import_module_class(path: str, layer: str) -> type[nn.Module]:
    found = _resolve(path, layer)
    if not _is_module_class(found):
        msg = (
            f"Layer '{layer}': '{path}' must be the full path of a class (package.module.Class) that is a subclass of"
            f" torch.nn.Module: {_what(found)}. {_RULE}"
        )
        raise ConfigError(msg)
    cls: type[nn.Module] = found
    return cls


def _is_module_class(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, nn.Module)


def _is_preset(found: Any) -> bool:
    """Whether ``found`` is a class with arguments, as ``MinMaxObserver.with_args`` returns it."""
    return type(found).__name__ == "_PartialWrapper" and type(found).__module__.startswith("torch.ao.quantization")


def _what(found: Any) -> str:
    if found is None:
        return "nothing can be imported from there"
    return f"found the {type(found).__name__} {getattr(found, '__name__', found)!r}"


def _has_member(cls: type, name: str) -> bool:
    """Whether objects of ``cls`` have the attribute ``name``, judged from the class alone: no object is built.

    True if the class has a member or an annotation of that name, or its code mentions the name, as in ``self.scale`` or
    ``register_buffer("scale", ...)``.
    """
    if hasattr(cls, name):
        return True
    own = cls.__mro__[: cls.__mro__.index(nn.Module)]
    return any(name in getattr(base, "__annotations__", {}) or name in _mentioned(base) for base in own)


def _mentioned(cls: type) -> set[str]:
    functions = [one for one in vars(cls).values() if isinstance(one, types.FunctionType)]
    return {name for function in functions for name in _names_in(function.__code__)}


def _names_in(constant: object) -> Iterator[str]:
    """Yields the names and texts in a code object, or in a constant of a code object."""
    if isinstance(constant, str):
        yield constant
    elif isinstance(constant, types.CodeType):
        yield from constant.co_names
        for one in constant.co_consts:
            yield from _names_in(one)
    elif isinstance(constant, tuple | frozenset):
        for one in constant:
            yield from _names_in(one)


def _resolve(path: str, layer: str) -> Any:
    """Returns the object at ``path``, or at the place that torch moved it to; None if neither exists.

    Raises:
      ConfigError: Its package is not allowed, or importing the package raises.
    """
    if not is_trusted(path):
        raise ConfigError(f"Layer '{layer}': '{path}' is in no package that a configuration may name. {_RULE}")
    places = [path, *(path.replace(old, new, 1) for old, new in _MOVED.items() if path.startswith(old))]
    try:
        return next((found for found in map(_import, places) if found is not None), None)
    except (Exception, SystemExit) as error:  # a package from outside may raise anything
        msg = f"Layer '{layer}': '{path}' cannot be imported: {type(error).__name__}: {error}"
        raise ConfigError(msg) from error


def _import(path: str) -> Any:
    """Returns the attribute behind the longest prefix of ``path`` that is a module; None if there is none."""
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts) or any(part.startswith("__") for part in parts):
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
            if not isinstance(found, types.ModuleType | type):
                return None  # attributes are read from modules and classes only: a property of an object would run code
            found = getattr(found, part, None)
        return found
    return None
