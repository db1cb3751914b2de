"""Reads the text that `print_text` writes: protobuf's own parser takes a second for the scales of a ResNet-50."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from google.protobuf import text_encoding
from google.protobuf.descriptor import FieldDescriptor

_LINE = re.compile(
    r' *(?:(?P<open>\w+) \{|(?P<close>\})|(?P<name>\w+): "(?P<text>(?:[^"\\\n]|\\[^\n])*)"|(?P<comment>#[^\n]*)?)\n'
)
_NUMBERS = re.compile(r"( *(?P<name>\w+): )[\w.+-]+\n(?:\1[\w.+-]+\n)*")  # lines of one repeated field
_KINDS: dict[int, Callable[[str], Any]] = {
    FieldDescriptor.CPPTYPE_FLOAT: float,
    FieldDescriptor.CPPTYPE_DOUBLE: float,
    FieldDescriptor.CPPTYPE_INT32: int,
    FieldDescriptor.CPPTYPE_UINT32: int,
    FieldDescriptor.CPPTYPE_BOOL: {"true": True, "false": False}.__getitem__,
}


def merge_plain_text(text: str, message: Any) -> bool:
    """Merges ``text`` into ``message``; returns False, with the message in an undefined state, if that is not possible.

    Only one form is read: one opening, closing, field or comment per line. Other valid protobuf text returns False.
    """
    stack = [_Block(message)]
    try:
        _take(text if text.endswith("\n") else f"{text}\n", stack)
        stack[0].flush()
    except (ValueError, KeyError, AttributeError, TypeError, IndexError):
        return False
    return len(stack) == 1


class _Block:
    """One message while its lines are read; values of repeated fields are collected and set at once."""

    def __init__(self, message: Any) -> None:
        self._message = message
        self._fields = message.DESCRIPTOR.fields_by_name
        self._values: dict[str, list[str]] = {}
        self._texts: dict[str, str] = {}

    def open(self, name: str) -> _Block:
        child = getattr(self._message, name)
        if hasattr(child, "add"):
            return _Block(child.add())
        child.SetInParent()
        return _Block(child)

    def take(self, name: str, numbers: list[str]) -> None:
        self._values.setdefault(name, []).extend(numbers)

    def take_text(self, name: str, text: str) -> None:
        self._texts[name] = text

    def flush(self) -> None:
        for name, text in self._texts.items():
            is_bytes = self._fields[name].type == FieldDescriptor.TYPE_BYTES
            content = text_encoding.CUnescape(text) if "\\" in text or is_bytes else text
            setattr(self._message, name, content if is_bytes or isinstance(content, str) else content.decode("utf-8"))
        for name, values in self._values.items():
            kind = _kind_of(self._fields[name])
            field = getattr(self._message, name)
            if hasattr(field, "extend"):
                field.extend([kind(value) for value in values])
            else:
                setattr(self._message, name, kind(values[-1]))


def _kind_of(field: Any) -> Callable[[str], Any]:
    """Returns the function that reads a value of ``field``."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        numbers = {name: value.number for name, value in field.enum_type.values_by_name.items()}
        return numbers.__getitem__
    return _KINDS[field.cpp_type]


def _take(text: str, stack: list[_Block]) -> None:
    at = 0
    while at < len(text):
        if (run := _NUMBERS.match(text, at)) is not None:
            stack[-1].take(run["name"], run[0].split()[1::2])
            at = run.end()
            continue
        if (line := _LINE.match(text, at)) is None:
            raise ValueError(text[at : at + 80])
        if line["name"] is not None:
            stack[-1].take_text(line["name"], line["text"])
        elif line["open"] is not None:
            stack.append(stack[-1].open(line["open"]))
        elif line["close"] is not None:
            stack.pop().flush()
        at = line.end()
