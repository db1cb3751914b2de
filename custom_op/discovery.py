"""The known extension classes: the ones in the folders of this package, and the ones that a user registers."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from hotwheels.amct_pytorch.custom_op.base import CustomModuleBase
from hotwheels.amct_pytorch.log import get_logger

_LOG = get_logger(__name__)
_Class = TypeVar("_Class", bound=type[CustomModuleBase])

# By dotted path, so that a class that a notebook defines again replaces its older version.
_known: dict[str, type[CustomModuleBase]] = {}
_quantized: set[str] = set()  # dotted paths of the classes that need no row of the capacity file


def register_custom_op(cls: _Class, quantize: bool = False) -> _Class:
    """Makes ``cls`` known as an extension module in this process and returns it, so it works as a decorator.

    Args:
        cls: Subclass of CustomModuleBase. Registering it again replaces ``quantize``.
        quantize: Whether its inputs can be quantized although the capacity file does not list it. False: the class is
            quantized if the capacity file lists its name.

    Raises:
        TypeError: ``cls`` is not a subclass of CustomModuleBase, or ``quantize`` is no bool.
    """
    if not _is_extension(cls):
        raise TypeError(f"register_custom_op: argument 'cls' must be a subclass of CustomModuleBase, got {cls!r}.")
    if not isinstance(quantize, bool):
        raise TypeError(f"register_custom_op: argument 'quantize' must be a bool, got {quantize!r}.")
    _known[_path(cls)] = cls
    (_quantized.add if quantize else _quantized.discard)(_path(cls))
    return cls


def is_registered_quantizable(cls: type) -> bool:
    """Whether ``cls``, or a class that it inherits from, was registered with ``quantize=True``."""
    return any(_path(base) in _quantized for base in cls.__mro__)


def registered_custom_ops() -> tuple[type[CustomModuleBase], ...]:
    """Returns the known extension classes in the order in which they became known."""
    return tuple(_known.values())


def discover_custom_ops(folders: Iterable[str], package: str) -> None:
    """Registers the extension classes of every ``<op>/<op>.py`` in ``folders``, the ``__path__`` of ``package``.

    An unusable file is skipped with a WARNING, since one broken file must not prevent the import of the whole SDK.
    """
    for file in _find_files(folders):
        module = _import_file(file, f"{package}.{file.stem}.{file.stem}")
        if module is None:
            continue
        classes = _classes_of(module)
        if not classes:
            _LOG.warning("Extension file '%s' is ignored: it defines no subclass of CustomModuleBase.", file)
        for cls in classes:
            register_custom_op(cls)


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _find_files(folders: Iterable[str]) -> Iterator[Path]:
    # Not pkgutil.iter_modules, which skips folders without __init__.py.
    for child in (child for folder in folders if Path(folder).is_dir() for child in sorted(Path(folder).iterdir())):
        file = child / f"{child.name}.py"
        if file.is_file():
            yield file
        elif child.is_dir() and any(child.glob("*.py")):
            _LOG.warning("Extension folder '%s' is ignored: it has no file '%s'.", child, file.name)


def _import_file(file: Path, name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a user's file runs here, and it may raise anything
        _LOG.warning(
            "Extension file '%s' is ignored: %s: %s The file custom_op/max/max.py shows one that works.",
            file,
            type(error).__name__,
            str(error).rstrip(".") + ".",
        )
        _LOG.debug("%s", traceback.format_exc())
        return None


def _classes_of(module: ModuleType) -> list[type[CustomModuleBase]]:
    """Returns the extension classes that ``module`` defines, without imported ones."""
    return [thing for thing in vars(module).values() if _is_extension(thing) and thing.__module__ == module.__name__]


def _is_extension(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, CustomModuleBase) and thing is not CustomModuleBase
