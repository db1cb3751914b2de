"""Prints a protobuf message in text format: protobuf's own printer takes seconds for the scales of a ResNet-50."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf import text_encoding
from google.protobuf.descriptor import FieldDescriptor


def print_text(message: Any) -> str:
    """Returns the fields that are set, one a line, in field order; floats as ``%.9g``, which float32 reads back equal."""
    return "".join(f"{line}\n" for line in _lines(message, ""))


def _lines(message: Any, indent: str) -> Iterator[str]:
    for field, value in message.ListFields():
        for one in _elements(value):
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                yield f"{indent}{field.name} {{"
                yield from _lines(one, f"{indent}  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{field.name}: {_scalar(field, one)}"


def _elements(value: Any) -> Iterable[Any]:
    """A repeated field is a sequence of its own kind; text, bytes, numbers and messages are one element."""
    is_repeated = not isinstance(value, (str, bytes)) and hasattr(value, "__len__")
    return value if is_repeated else (value,)


def _scalar(field: Any, value: Any) -> str:
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return f"{value:.9g}"
    if field.type == FieldDescriptor.TYPE_ENUM:
        return str(field.enum_type.values_by_number[value].name)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return "true" if value else "false"
    if isinstance(value, (str, bytes)):
        return f'"{text_encoding.CEscape(value, as_utf8=isinstance(value, str))}"'
    return str(value)
