"""Reads JSON with comments, trailing and missing commas, as people edit it; writes strict JSON (spec 7.1)."""

from __future__ import annotations

import json
import re
from typing import Any

from ...errors import ConfigError
from ...files import PathLike
from ...files.limits import CONFIG, JSON_DEPTH, TOLERANT_JSON, WARNINGS, Limit
from ...log import get_logger
from .kinds import named_if_other
from .text_file import read_text

_log = get_logger(__name__)
_BLANK = re.compile(r"(?:[ \t\r\n]|//[^\n]*|#[^\n]*)*")
_SCALAR = json.JSONDecoder()
_VALUE_STARTS = frozenset('"{[-0123456789tfnNI')


def read_json(path: PathLike, what: str = "Configuration file", limit: Limit = CONFIG) -> Any:
    """Returns the value in a JSON file; ``what`` names the kind of file in messages.

    Raises:
      FileNotFoundError: There is no such file.
      ConfigError: It is larger than ``limit``, not UTF-8, or not JSON even with the tolerances of `parse_json`.
    """
    return parse_json(read_text(path, what, limit), str(path))


def parse_json(text: str, source: str) -> Any:
    """Returns the value that ``text`` describes; ``source`` is the file's name in messages.

    Strict JSON gives the same value as the ``json`` module. Also accepted are comments from ``//`` or ``#`` to the end
    of the line, a comma behind the last member or element, and, with a WARNING, a missing comma between two of them.

    Raises:
      ConfigError: The text is not valid, exceeds a limit, or an object has a key twice; with line and column.
    """
    value = _strict(text)
    return _tolerant(text, source) if value is None else value


def dump_json(value: Any) -> str:
    """Returns ``value`` as strict JSON with 4-space indent and a newline at the end."""
    return json.dumps(value, indent=4, ensure_ascii=False, allow_nan=False) + "\n"


def _strict(text: str) -> Any | None:
    """Returns the value of strict JSON, 30 times faster than the parser; None if ``text`` is not strict (or null)."""
    try:
        value = _STRICT.decode(text)
    except (ValueError, RecursionError):
        return None
    return value if _is_flat_enough(value) else None


def _with_unique_keys(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError
    return found


_STRICT = json.JSONDecoder(object_pairs_hook=_with_unique_keys)


def _is_flat_enough(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(JSON_DEPTH.most + 1):
        if not level:
            return True
        nested = [one.values() if isinstance(one, dict) else one for one in level]
        level = [child for children in nested for child in children if isinstance(child, dict | list)]
    return False


def _tolerant(text: str, source: str) -> Any:
    TOLERANT_JSON.check(len(text), source)
    parser = _Parser(text, source)
    with named_if_other(text, source, "JSON", "JSON"):
        value = parser.document()
    for at in parser.missing_commas[:WARNINGS]:
        _log.warning("%s: a comma is missing; the text is read as if it were there.", parser.place(at))
    if len(parser.missing_commas) > WARNINGS:
        _log.warning("%s: %d more commas are missing.", source, len(parser.missing_commas) - WARNINGS)
    return value


class _Parser:
    """A recursive descent parser; ``position`` is the index of the next character.

    Attributes:
      missing_commas: Positions of missing commas.
    """

    def __init__(self, text: str, source: str) -> None:
        self._text = text
        self._source = source
        self._position = 0
        self._depth = 0
        self.missing_commas: list[int] = []

    def document(self) -> Any:
        value = self._value()
        if self._peek():
            raise self._error("there is more text behind the end of the document")
        return value

    def _value(self) -> Any:
        char = self._peek()
        if char not in ("{", "["):
            return self._scalar()
        self._depth += 1
        if self._depth > JSON_DEPTH.most:
            raise self._error(f"more than {JSON_DEPTH.most} {JSON_DEPTH.unit}")
        value: Any = self._object() if char == "{" else self._array()
        self._depth -= 1
        return value

    def _object(self) -> dict[str, Any]:
        members: dict[str, Any] = {}
        self._take("{")
        while not self._ends("}"):
            at = self._position
            key = self._key()
            if key in members:
                raise self._error(f"key '{key}' occurs twice in the same object", at)
            self._take(":")
            members[key] = self._value()
            self._separator("}")
        return members

    def _array(self) -> list[Any]:
        elements: list[Any] = []
        self._take("[")
        while not self._ends("]"):
            elements.append(self._value())
            self._separator("]")
        return elements

    def _key(self) -> str:
        if self._peek() != '"':
            raise self._error("a key in double quotes is expected")
        return str(self._scalar())

    def _scalar(self) -> Any:
        if self._peek() not in _VALUE_STARTS:
            raise self._error("a value is expected")
        try:
            value, self._position = _SCALAR.raw_decode(self._text, self._position)
        except json.JSONDecodeError as error:
            raise self._error(error.msg[:1].lower() + error.msg[1:], error.pos) from error
        except ValueError as error:  # an integer of more digits than Python converts
            raise self._error(str(error)) from error
        return value

    def _separator(self, closing: str) -> None:
        """Reads the comma behind a member or element; the comma may be missing, or precede ``closing``."""
        end = self._position
        char = self._peek()
        if char == ",":
            self._position += 1
        elif char in _VALUE_STARTS and self._is_apart(end):
            self.missing_commas.append(end)
        elif char != closing:
            raise self._error(f"',' or '{closing}' is expected")

    def _is_apart(self, end: int) -> bool:
        """Whether the next value is clearly a separate value: ``1 2`` and ``{} {}`` are, ``1-2`` is a mistake."""
        return self._position > end or self._text[end] in '"{['

    def _ends(self, closing: str) -> bool:
        if self._peek() != closing:
            return False
        self._position += 1
        return True

    def _take(self, char: str) -> None:
        if self._peek() != char:
            raise self._error(f"'{char}' is expected")
        self._position += 1

    def _peek(self) -> str:
        """Returns the next significant character; '' at the end."""
        blank = _BLANK.match(self._text, self._position)
        self._position = blank.end() if blank else self._position
        return self._text[self._position : self._position + 1]

    def _error(self, problem: str, at: int | None = None) -> ConfigError:
        return ConfigError(f"{self.place(self._position if at is None else at)}: {problem}.")

    def place(self, at: int) -> str:
        """Returns file, line and column of a position for messages."""
        line = self._text.count("\n", 0, at) + 1
        column = at - self._text.rfind("\n", 0, at)
        return f"{self._source}, line {line}, column {column}"
