"""Typed reading of values from JSON and yaml, with the coercions of spec 7.1."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ...errors import ConfigError, nearest_names
from .unmatched import report_unmatched

_LONGEST_INT = 64  # bits; far above any argument, and longer integers overflow a float
_SHORT = reprlib.Repr()  # a repr whose length is limited
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 20
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_WORDS = {"true": True, "yes": True, "false": False, "no": False}


def as_bool(value: object, where: str) -> bool:
    """Returns a bool; the words true, false, yes and no are accepted as strings. Raises ConfigError."""
    word = as_switch(value)
    if word is None:
        raise ConfigError(f"{where} is {shown(value)}; allowed: true, false.")
    return word


def as_switch(value: object) -> bool | None:
    """Returns a bool as `as_bool` reads it; None if ``value`` is none."""
    word = _WORDS.get(value.strip().lower()) if isinstance(value, str) else value
    return word if isinstance(word, bool) else None


def as_int(value: object, where: str) -> int:
    """Returns an int; 8.0 and "8" are accepted. Raises ConfigError."""
    number = _number(value)
    if number is None or number != int(number):
        raise ConfigError(f"{where} is {shown(value)}; a whole number is expected.")
    return int(number)


def as_float(value: object, where: str) -> float:
    """Returns a finite float; "1e-10" is accepted, since yaml reads it as a string. Raises ConfigError."""
    number = _number(value)
    if number is None:
        raise ConfigError(f"{where} is {shown(value)}; a number is expected.")
    return float(number)


def as_text(value: object, where: str) -> str:
    """Returns a str. Raises ConfigError."""
    if not isinstance(value, str):
        raise ConfigError(f"{where} is {shown(value)}; a string is expected.")
    return value


def as_name_list(value: object, where: str) -> tuple[str, ...]:
    """Returns the strings in a list; None gives none.

    Raises:
      ConfigError: The value is no list of strings. A single string is refused, since some readers would take it as a
        name and others as a list of letters.
    """
    if isinstance(value, str):
        raise ConfigError(f"{where} is {shown(value)}; a list is expected: [{shown(value)}].")
    return as_names(value, where)


def as_names(value: object, where: str) -> tuple[str, ...]:
    """Returns the strings in a list; a single string gives one element, None gives none. Raises ConfigError."""
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    return tuple(as_text(one, f"{where}[{index}]") for index, one in enumerate(values))


def as_object(value: object, where: str) -> Mapping[str, Any]:
    """Returns an object with string keys; None gives an empty object. Raises ConfigError."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {shown(value)}; an object with keys is expected.")
    return {as_text(key, f"A key of {where}"): one for key, one in value.items()}


def as_list(value: object) -> list[Any]:
    """Returns a list; a single value gives a list of one element, None an empty list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def as_numbers(value: object, where: str) -> float | list[float]:
    """Returns a float, or a list of floats. Raises ConfigError."""
    if not isinstance(value, list | tuple):
        return as_float(value, where)
    if not value:
        raise ConfigError(f"{where} is an empty list; at least one number is expected.")
    return [as_float(one, f"{where}[{index}]") for index, one in enumerate(value)]


def report_unknown(given: Iterable[str], known: Collection[str], where: str) -> None:
    """Reports unknown keys; see `report_unmatched`."""
    report_unmatched(
        [key for key in given if key not in known],
        lambda key: f"unknown key '{key}' is ignored. {nearest_names(key, known)}",
        place=where,
    )


def shown(value: object, limit: int = 60) -> str:
    """Returns the text of ``value`` for a message, cut off after ``limit`` characters."""
    try:
        text = repr(value[: limit + 1]) if isinstance(value, str) else _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python converts
        return "a very large number"
    return text if len(text) <= limit else f"{text[:limit]}..."


def _number(value: object) -> int | float | None:
    """Returns the finite number in ``value``, a number or a text; None if there is none."""
    if isinstance(value, bool):  # a subclass of int, but no number for the user
        return None
    if isinstance(value, int):
        return value if value.bit_length() <= _LONGEST_INT else None
    if not isinstance(value, float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
