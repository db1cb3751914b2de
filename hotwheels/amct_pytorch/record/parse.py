"""Parsing of protobuf text into a message, with errors that name file, line and field."""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import text_format

from ..errors import AmctError, RecordError, nearest_names
from ..files import PathLike, check_input_file
from ..files.limits import RECORD, RECORD_OTHER_FORM, read_limited
from ..files.marks import without_mark
from ..proto import outdated_modules
from .plain_text import merge_plain_text


def parse_message(kind: Any, text: str, source: str, error_class: type[AmctError] = RecordError) -> Any:
    """Returns a message of class ``kind`` with the content of ``text``; ``source`` is the file's name in messages.

    Raises:
      AmctError: (``error_class``) The text does not parse, or a required field is missing.
    """
    message = kind()
    if merge_plain_text(without_mark(text), message) and message.IsInitialized():
        return message
    RECORD_OTHER_FORM.check(len(text), source, error_class)
    message = kind()
    try:
        text_format.Merge(text, message)  # not Parse, which refuses an optional field that occurs twice
    except text_format.ParseError as error:
        line = error.GetLine()
        where = f"{source}, line {line}" if line is not None else source
        raise error_class(f"{where}: {_without_position(str(error))}.{_way_out(str(error), message)}") from error
    except (ValueError, RecursionError) as error:
        raise error_class(f"{source} is not in protobuf text format: {error}.") from error
    missing = message.FindInitializationErrors()
    if missing:
        raise error_class(f"{source}: required field '{missing[0]}' is missing.")
    return message


def read_proto_text(path: PathLike, what: str) -> str:
    """Returns the content of a record or parameter file; ``what`` names the kind of file in messages.

    Raises:
      FileNotFoundError: There is no such file.
      RecordError: It is no UTF-8 text, or beyond the limit.
    """
    path = check_input_file(path, what)
    try:
        return read_limited(path, RECORD, RecordError).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError(f"{what} '{path}' is not a UTF-8 text: {error}.") from error


def _way_out(text: str, message: Any) -> str:
    """Returns a sentence for an unknown field: generated modules that may lack it, else the most similar fields."""
    found = re.search(r'Message type "([\w.]+)" has no field named "(\w+)"', text)
    if found is None:
        return ""
    if outdated := outdated_modules():
        return f" {', '.join(outdated)} is older than the .proto file beside it: run pip install -e . again."
    kind = message.DESCRIPTOR.file.pool.FindMessageTypeByName(found[1])
    return f" {nearest_names(found[2], [field.name for field in kind.fields])}"


def _without_position(text: str) -> str:
    """Returns protobuf's error message without the ``line:column :`` in front."""
    head, separator, rest = text.partition(" : ")
    return (rest if separator and head.replace(":", "").isdigit() else text).rstrip(".")
