"""Ranges of numbers that arguments may have: the only module that imports the package ``interval``."""

from __future__ import annotations

import math

from interval import Interval as Interval


def closed(low: float, high: float) -> Interval:
    """Returns ``[low, high]``."""
    return Interval(low, high)


def above(low: float, high: float) -> Interval:
    """Returns ``(low, high]``."""
    return Interval(low, high, lower_closed=False)


def between(low: float, high: float) -> Interval:
    """Returns ``(low, high)``."""
    return Interval(low, high, closed=False)


def at_least(low: float) -> Interval:
    """Returns ``[low, inf)``."""
    return Interval(low, math.inf)


# The ends are float infinities: the package's own Inf does not compare on Python 3.
POSITIVE = above(0, math.inf)
NEGATIVE = between(-math.inf, 0)


def describe(interval: Interval) -> str:
    """Returns the interval as in mathematics: ``[0.5, 1.0)``."""
    left = "[" if interval.lower_closed else "("
    right = "]" if interval.upper_closed and interval.upper_bound != math.inf else ")"
    return f"{left}{interval.lower_bound}, {interval.upper_bound}{right}"
