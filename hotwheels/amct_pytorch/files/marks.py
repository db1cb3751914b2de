"""Marks: data at the end of a saved file that identifies the other files of the same save (spec 11.12).

Digests are computed without the mark, so files can hold the digests of each other. The mark of a text file is a comment
line, that of an ONNX model an entry of its metadata. Other files have no mark; the marked files hold their digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEY = "amct.files.v1"
_COMMENT = f"# {KEY} ".encode()
_LONGEST = 1 << 16  # bytes at the end of a file that are searched for the mark
_CHUNK = 1 << 18  # bytes that are read at once; they stay in the processor's cache until they are hashed
# Fields of ONNX' ModelProto and StringStringEntryProto, all of them length-delimited.
_METADATA, _ENTRY_KEY, _ENTRY_VALUE = 14, 1, 2
_LENGTH_DELIMITED = 2  # protobuf's wire type of messages, strings and bytes


def mark_of(name: str, digests: Mapping[str, str]) -> bytes:
    """Returns the mark for the end of the file ``name``; empty for a kind of file that has no marks."""
    if name.endswith(".onnx"):
        return _metadata_entry(digests)
    return comment_of(digests) if name.endswith(".txt") else b""


def comment_of(digests: Mapping[str, str]) -> bytes:
    """Returns the line that is the mark of a text file."""
    return _COMMENT + _json(digests) + b"\n"


def read_mark(path: Path) -> tuple[int, Mapping[str, str] | None]:
    """Returns (length of the content, digests in the mark); (size of the file, None) without a mark."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _LONGEST))
        tail = file.read()
    digests, length = _mark_in(tail)
    return size - length, digests


def digest(path: Path, length: int | None = None) -> str:
    """Returns the SHA-256 of the first ``length`` bytes, or of the whole file."""
    length = path.stat().st_size if length is None else length
    found, buffer = hashlib.sha256(), memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while length > 0 and (size := file.readinto(buffer[: min(_CHUNK, length)])):
            found.update(buffer[:size])
            length -= size
    return found.hexdigest()


def without_mark(text: str) -> str:
    """Returns the text of a file without the comment line that is its mark."""
    head, separator, last = text.removesuffix("\n").rpartition("\n")
    return f"{head}{separator}" if last.startswith(_COMMENT.decode()) else text


def field(number: int, content: bytes) -> bytes:
    """Returns a length-delimited field in protobuf's wire format."""
    return field_start(number, len(content)) + content


def field_start(number: int, size: int) -> bytes:
    """Returns the tag and length that precede the ``size`` bytes of a length-delimited field."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(size)


def _varint(number: int) -> bytes:
    """Returns ``number`` as a varint: seven bits per byte, the lowest first; the eighth bit means that more follow."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*groups, number))


def _mark_in(tail: bytes) -> tuple[Mapping[str, str] | None, int]:
    """Returns the digests in the mark at the end of ``tail`` and the mark's length; None and 0 without one."""
    line = tail.removesuffix(b"\n").rpartition(b"\n")[2]
    if line.startswith(_COMMENT):
        digests = _parsed(line.removeprefix(_COMMENT))
        return digests, 0 if digests is None else len(line) + int(tail.endswith(b"\n"))
    at = tail.rfind(field(_ENTRY_KEY, KEY.encode()))
    digests = _parsed(tail[tail.find(b"{", at) :]) if at >= 0 else None
    if digests is None or not tail.endswith(entry := _metadata_entry(digests)):
        return None, 0
    return digests, len(entry)


def _metadata_entry(digests: Mapping[str, str]) -> bytes:
    return field(_METADATA, field(_ENTRY_KEY, KEY.encode()) + field(_ENTRY_VALUE, _json(digests)))


def _json(digests: Mapping[str, str]) -> bytes:
    return json.dumps(digests, sort_keys=True).encode()


def _parsed(text: bytes) -> dict[str, str] | None:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_mark = isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
    return dict(value) if is_mark else None
