"""Argument: name, type, default and range of one key of ``quantizer_args``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ...errors import ConfigError
from ...log import get_logger
from .coercion import as_bool, as_float, as_int, as_numbers, as_text, shown
from .ranges import Interval, describe

_log = get_logger(__name__)
_READERS: dict[str, Callable[[object, str], Any]] = {
    "bool": as_bool,
    "int": as_int,
    "float": as_float,
    "floats": as_numbers,
    "string": as_text,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument of an algorithm.

    Attributes:
      name: Canonical key.
      kind: bool, int, float, floats (one or a list) or string.
      default: Value used if the key is absent; None if there is no default.
      allowed: None for any value of the kind, an Interval, or the values themselves.
      usual: None, or the interval outside which a value is used with a WARNING.
      fallback: None if a value outside ``allowed`` is an error; else the value used instead, with a WARNING.
      aliases: Other keys of the same meaning.
      is_required: Whether the key must be there.
    """

    name: str
    kind: str
    default: Any = None
    allowed: Interval | tuple[Any, ...] | None = None
    usual: Interval | None = None
    fallback: Any = None
    aliases: tuple[str, ...] = ()
    is_required: bool = False

    def read(self, value: object, where: str) -> Any:
        """Returns ``value`` in the right type, checked; messages begin with ``where``.

        Raises:
          ConfigError: Wrong type or outside ``allowed``.
        """
        place, where = where, f"{where}: {self.name}"
        found = _READERS[self.kind](value, where)
        values = found if isinstance(found, list) else [found]
        wrong = [one for one in values if self.allowed is not None and one not in self.allowed]
        if wrong and self.fallback is None:
            raise ConfigError(f"{where} is {shown(found)}; allowed: {_allowed_text(self.allowed)}.")
        if wrong:
            allowed = _allowed_text(self.allowed)
            _log.warning_of_place(place, f"{self.name} is {found}; allowed: {allowed}. {self.fallback} is used.")
            return self.fallback
        if self.usual is not None and found not in self.usual:
            _log.warning_of_place(place, f"{self.name} is {found}, outside the usual {describe(self.usual)}.")
        return found


def _allowed_text(allowed: Interval | tuple[Any, ...] | None) -> str:
    return ", ".join(map(str, allowed)) if isinstance(allowed, tuple) else describe(allowed)
