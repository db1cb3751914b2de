"""Checks of the arguments of public functions."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import nn

from ..backends.user_model.float_model import refuse_arrays
from ..config.fx.json_config import SEE_CHECK
from ..files import PathLike, check_input_file, check_path, check_possible, output_path
from ..files.seal import NAMES
from ..log import get_logger

_log = get_logger(__name__)

_Function = TypeVar("_Function", bound=Callable[..., Any])


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
    path = check_path(function, argument, value)
    check_possible(function, argument, path)
    return check_input_file(path, f"{function}: argument '{argument}':")


def check_aliases(function: str, name: str, value: Any, alias: str, alias_value: Any) -> Any:
    """Returns the value of an argument with two spellings, None if neither was passed; TypeError if both were."""
    if value is not None and alias_value is not None:
        raise TypeError(f"{function}: '{name}' and '{alias}' are two spellings of one argument; pass one of them.")
    return value if value is not None else alias_value


def as_inputs(input_data: Any) -> tuple[Any, ...]:
    """Returns the positional arguments of a forward; a bare tensor is a tuple of one (spec 1.6).

    Raises:
      TypeError: One of them is a NumPy array.
    """
    inputs = tuple(input_data) if isinstance(input_data, (tuple, list)) else (input_data,)
    refuse_arrays(inputs)
    return inputs


def as_example(input_data: Any) -> tuple[Any, ...] | None:
    """Returns ``input_data`` as a tuple of positional arguments (see `as_inputs`); None for None."""
    return None if input_data is None else as_inputs(input_data)


def check_names(function: str, argument: str, value: object) -> list[str] | None:
    """Returns ``value`` if it is None or a list of strings."""
    text = "a list of strings or None"
    check_type(function, argument, value, (list, tuple, type(None)), text)
    for one in value or ():  # type: ignore[attr-defined]
        check_type(function, argument, one, str, text)
    return None if value is None else list(value)  # type: ignore[call-overload]


def check_axes(function: str, value: object) -> dict[str, Any] | None:
    """Returns ``dynamic_axes`` if it is None, ``{name: {axis: label}}`` or ``{name: [axes]}``."""
    text = "a dict {name: {axis: label}} or {name: [axes]}"
    check_type(function, "dynamic_axes", value, (dict, type(None)), text)
    for name, axes in (value or {}).items():  # type: ignore[attr-defined]
        check_type(function, "dynamic_axes", name, str, text)
        check_type(function, f"dynamic_axes['{name}']", axes, (dict, list, tuple), "{axis: label} or [axes]")
        for axis in axes:
            check_type(function, f"dynamic_axes['{name}']", axis, int, "{axis: label} or [axes], axes as ints")
    return value  # type: ignore[return-value]


def check_save_path(function: Callable[..., Any], value: object) -> None:
    """Checks the prefix of a save.

    Raises:
      TypeError: ``value`` is no path. The text has the order of all arguments: this one is easily forgotten.
      OSError: There can be no such files.
    """
    if not isinstance(value, (str, os.PathLike)):
        msg = f"{function.__name__}: argument 'save_path' must be a string, got {type(value).__name__}."
        raise TypeError(f"{msg} The arguments in order: {_order_of(function)}.")
    check_prefix(function.__name__, value)


def check_prefix(function: str, save_path: PathLike) -> None:
    """Raises TypeError if ``save_path`` is no path, OSError if there can be no files with that prefix."""
    check_path(function, "save_path", save_path)
    check_possible(function, "save_path", output_path(save_path, max(NAMES, key=len)))


def documented_order(**aliases: str) -> Callable[[_Function], _Function]:
    """Returns a decorator: the function also accepts ``aliases``, and its TypeErrors state the argument order (spec 3).

    ``aliases`` maps each other spelling to the parameter.
    """

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        order = _order_of(function)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for alias, name in aliases.items():
                if alias in kwargs:
                    check_aliases(function.__name__, name, kwargs.get(name), alias, kwargs[alias])
                    kwargs[name] = kwargs.pop(alias) if name not in kwargs else kwargs[name]
                    kwargs.pop(alias, None)
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{function.__name__}: {error}. The arguments in order: {order}.") from None
            return function(*args, **kwargs)

        return cast("_Function", call)

    return decorate


def _order_of(function: Callable[..., Any]) -> str:
    parameters = inspect.signature(function).parameters.values()
    names = [one.name for one in parameters if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    return f"{function.__name__}({', '.join(names)})"


def tell_configuration(path: Path, count: int) -> None:
    """Says that the configuration of ``count`` layers was written; for none that is a WARNING."""
    if count:
        _log.info("Wrote the configuration of %d layers to '%s'.", count, path)
    else:
        _log.warning("The model has no layer that can be quantized, '%s' has none. %s", path, SEE_CHECK)


def warn_of_replacement(path: Path) -> None:
    """Warns if ``path``, a configuration which users may have edited, exists."""
    if path.exists():
        _log.warning("The configuration '%s' exists and is replaced.", path)
