"""Checks of arguments at the boundary: one function per promise, each names what was wrong."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from interval import Interval

from ..errors import ConfigError, nearest_names
from .spec import ACTIVATION_BITS, WEIGHT_BITS

# Open and half-open ranges which several arguments share. Bounds are numbers: interval's own infinities
# do not compare on Python 3.
POSITIVE = Interval(0, math.inf, lower_closed=False)
PERCENTILE = Interval(0.5, 1.0, lower_closed=False)


def check_type(name: str, value: Any, *types: type) -> None:
    """Raises TypeError unless ``value`` is an instance of one of ``types``; a bool is no number.

    ``name`` is how the user knows it, e.g. ``"create_quant_model_fx: argument 'model'"``.
    """
    is_disguised_bool = isinstance(value, bool) and bool not in types and object not in types
    if isinstance(value, types) and not is_disguised_bool:
        return
    expected = " or ".join(one.__name__ for one in types)
    msg = f"{name} must be {expected}, got {value!r} of type {type(value).__name__}."
    raise TypeError(msg)


def check_in(name: str, value: Any, allowed: Collection[Any]) -> None:
    """Raises ConfigError unless ``value`` equals one of ``allowed``; names the nearest where they are strings."""
    if any(type(one) is type(value) and one == value for one in allowed):
        return
    shown = ", ".join(repr(one) for one in allowed)
    is_text = isinstance(value, str) and all(isinstance(one, str) for one in allowed)
    hint = f" {nearest_names(value, allowed)}" if is_text and len(allowed) > 5 else ""
    msg = f"{name} must be one of {shown}; got {value!r}.{hint}"
    raise ConfigError(msg)


def check_interval(name: str, value: Any, interval: Interval) -> None:
    """Raises ConfigError unless ``value`` is a number inside ``interval`` (NaN never is)."""
    if _is_number(value) and not math.isnan(value) and value in interval:
        return
    msg = f"{name} must be a number in {describe(interval)}, got {value!r}."
    raise ConfigError(msg)


def check_int_interval(name: str, value: Any, interval: Interval) -> None:
    """Raises ConfigError unless ``value`` is an integer (no bool) inside ``interval``."""
    if isinstance(value, int) and not isinstance(value, bool) and value in interval:
        return
    msg = f"{name} must be an integer in {describe(interval)}, got {value!r}."
    raise ConfigError(msg)


def check_positive_int(name: str, value: Any) -> None:
    """Raises ConfigError unless ``value`` is an integer above 0."""
    check_int_interval(name, value, POSITIVE)


def check_bool(name: str, value: Any) -> None:
    """Raises ConfigError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        msg = f"{name} must be true or false, got {value!r}."
        raise ConfigError(msg)


def check_bits(name: str, value: Any, allowed: Collection[int] = ACTIVATION_BITS) -> None:
    """Raises ConfigError unless ``value`` is an integer among ``allowed``: activations 4, 8..16 (spec 4.2)."""
    check_in(name, value, allowed)


def check_weight_bits(name: str, value: Any) -> None:
    """Raises ConfigError unless ``value`` is 4 or 8."""
    check_in(name, value, WEIGHT_BITS)


def describe(interval: Interval) -> str:
    """The interval as in mathematics: ``[0.5, 1.0)``."""
    left = "[" if interval.lower_closed else "("
    right = "]" if interval.upper_closed and interval.upper_bound != math.inf else ")"
    return f"{left}{interval.lower_bound}, {interval.upper_bound}{right}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
