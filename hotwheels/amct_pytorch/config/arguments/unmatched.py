"""Names in a configuration that match nothing in the model: a WARNING, or an error if ``strict`` (spec 7.3)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar

from ...errors import ConfigError
from ...files.limits import WARNINGS
from ...log import get_logger, one_line_per_cause

_log = get_logger(__name__)
_VARIABLE = "AMCT_STRICT"
_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}
_is_strict: ContextVar[bool | None] = ContextVar("amct_is_strict", default=None)


@contextlib.contextmanager
def strictness(strict: bool | None) -> Iterator[None]:
    """Makes unmatched names an error (True) or a WARNING (False) in the block; None keeps the setting around the block.

    Without any setting the environment variable AMCT_STRICT decides: 1, true or yes means an error.

    Raises:
      TypeError: ``strict`` is no bool or None.
    """
    if not isinstance(strict, bool | None):
        raise TypeError(f"strict must be a bool or None, got {type(strict).__name__}.")
    token = _is_strict.set(_is_strict.get() if strict is None else strict)
    try:
        with one_line_per_cause():
            yield
    finally:
        _is_strict.reset(token)


def report_unmatched(names: Sequence[str], sentence: Callable[[str], str], place: str = "") -> None:
    """Logs ``sentence(name)`` as a WARNING for the first ten of ``names``, and the number of the others.

    ``place``: where the names stand, if many places may have the same; within `strictness` these are one warning.

    Raises:
      ConfigError: There is a name, and the setting is strict; or AMCT_STRICT has an unknown value.
    """
    if not names:
        return
    is_strict = _is_strict.get()
    if is_strict or (is_strict is None and _by_environment()):
        raise ConfigError(f"{place}: {sentence(names[0])}" if place else sentence(names[0]))
    for name in names[:WARNINGS]:
        if place:
            _log.warning_of_place(place, sentence(name))
        else:
            _log.warning("%s", sentence(name))
    if len(names) > WARNINGS:
        _log.warning("%d more names like '%.60s' match nothing.", len(names) - WARNINGS, names[-1])


def _by_environment() -> bool:
    value = os.environ.get(_VARIABLE, "")
    if value.lower() not in _WORDS:
        raise ConfigError(f"Environment variable {_VARIABLE} is {value!r}; allowed: 1, 0, true, false, yes, no.")
    return _WORDS[value.lower()]
