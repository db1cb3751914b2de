"""Prints a protobuf message in text format: protobuf's own printer takes seconds for the scales of a ResNet-50."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf import text_encoding
from google.protobuf.descriptor import FieldDescriptor


def print_text(message: Any) -> str:
    """Returns the fields that are set, one per line, in field order; floats as ``%.9g``, which reads back equal."""
    parts: list[str] = []
    _print(message, "", parts)
    return "".join(parts)


def _print(message: Any, indent: str, parts: list[str]) -> None:
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for one in _elements(value):
                parts.append(f"{indent}{field.name} {{\n")
                _print(one, f"{indent}  ", parts)
                parts.append(f"{indent}}}\n")
        else:
            start = f"{indent}{field.name}: "
            values = f"\n{start}".join(map(_formatter(field), _elements(value)))
            parts.append(f"{start}{values}\n")


def _elements(value: Any) -> Iterable[Any]:
    """Returns the elements of a repeated field; a text, bytes, a number or a message is one element."""
    is_repeated = not isinstance(value, (str, bytes)) and hasattr(value, "__len__")
    return value if is_repeated else (value,)


def _formatter(field: Any) -> Callable[[Any], str]:
    """Returns the function that prints a value of a scalar field."""
    if field.type == FieldDescriptor.TYPE_ENUM:
        names = field.enum_type.values_by_number
        return lambda value: str(names[value].name)
    return _FORMATTERS.get(field.type, str)


_FORMATTERS: dict[int, Callable[[Any], str]] = {
    FieldDescriptor.TYPE_FLOAT: "{:.9g}".format,
    FieldDescriptor.TYPE_BOOL: lambda value: "true" if value else "false",
    FieldDescriptor.TYPE_STRING: lambda value: f'"{text_encoding.CEscape(value, as_utf8=True)}"',
    FieldDescriptor.TYPE_BYTES: lambda value: f'"{text_encoding.CEscape(value, as_utf8=False)}"',
}
