"""What a configuration says and nothing matches: a WARNING, or an error for those who are strict (spec 7.3)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar

from ...errors import ConfigError
from ...files.limits import WARNINGS
from ...log import get_logger

_log = get_logger(__name__)
_VARIABLE = "AMCT_STRICT"
_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}
_is_strict: ContextVar[bool | None] = ContextVar("amct_is_strict", default=None)


@contextlib.contextmanager
def strictness(strict: bool | None) -> Iterator[None]:
    """Makes what nothing matches an error within the block, or a WARNING; None leaves it as it is around the block.

    Where nothing is said it is as AMCT_STRICT says: 1, true or yes, else a WARNING.

    Raises:
      TypeError: ``strict`` is something else.
    """
    if not isinstance(strict, bool | None):
        raise TypeError(f"strict must be a bool or None, got {type(strict).__name__}.")
    token = _is_strict.set(_is_strict.get() if strict is None else strict)
    try:
        yield
    finally:
        _is_strict.reset(token)


def report_unmatched(names: Sequence[str], sentence: Callable[[str], str]) -> None:
    """Says of each of ``names`` what ``sentence`` makes of it; of the first ten, and how many more there are.

    Raises:
      ConfigError: There are any, and the caller is strict; or AMCT_STRICT has an unknown value.
    """
    if not names:
        return
    is_strict = _is_strict.get()
    if is_strict or (is_strict is None and _by_environment()):
        raise ConfigError(sentence(names[0]))
    for name in names[:WARNINGS]:
        _log.warning("%s", sentence(name))
    if len(names) > WARNINGS:
        _log.warning("%d more names like '%.60s' match nothing.", len(names) - WARNINGS, names[-1])


def _by_environment() -> bool:
    value = os.environ.get(_VARIABLE, "")
    if value.lower() not in _WORDS:
        raise ConfigError(f"Environment variable {_VARIABLE} is {value!r}; allowed: 1, 0, true, false, yes, no.")
    return _WORDS[value.lower()]
