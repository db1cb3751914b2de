"""Mutations: damaged and hostile variants of a file, drawn from a seeded generator."""

from __future__ import annotations

import io
import random
import re
import zipfile
from collections.abc import Callable, Sequence

_TOKENS = (
    *(b"\x00", b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\xe9", b"\xef\xbb\xbf"),
    *(b"-1", b"nan", b"inf", b"1e999", b"999999999999999999999", b"null", b"true", b"../", b"/dev/null", b"os.system"),
    *(b"{", b"}", b"[", b"]", b'"', b"'", b"\\", b",", b":", b"#", b"//", b"\n", b"\r", b"\t", b"{}"),
    *(b"&a", b"*a", b"<<: ", b"!!python/object:os.system ", b"record {", b"layer {"),
)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:e-?\d+)?")
_NUMBERS = (
    *(b"0", b"-1", b"1", b"3", b"255", b"-128", b"65536", b"2147483648", b"9223372036854775807"),
    *(b"1e39", b"1e-46", b"nan", b"-inf", b"1" * 400),
)
_ZIP = b"PK\x03\x04"


def mutated(data: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """Returns a variant of ``data`` with one to four changes; ``others`` are files whose parts may be put in."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if data.startswith(_ZIP) and draw.random() < 0.7:
            data = _with_changed_member(data, others, draw)
        else:
            data = draw.choice(_CHANGES)(data, others, draw)
    return data


def _place(data: bytes, draw: random.Random) -> tuple[int, int]:
    start = draw.randrange(len(data) + 1)
    return start, min(len(data), start + draw.choice((1, 2, 4, 16, 100, 1000)))


def _cut(data: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _flip(data: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(min(len(data), draw.choice((1, 1, 2, 8)))):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _delete(data: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    start, end = _place(data, draw)
    return data[:start] + data[end:]


def _repeat(data: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    start, end = _place(data, draw)
    return data[:start] + data[start:end] * draw.choice((2, 3, 100)) + data[end:]


def _insert(data: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    token = draw.choice(_TOKENS) if draw.random() < 0.7 else draw.randbytes(draw.choice((1, 4, 64)))
    return data[:at] + token + data[at:]


def _overwrite(data: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    start, end = _place(data, draw)
    return data[:start] + draw.randbytes(end - start) + data[end:]


def _splice(data: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    other = draw.choice(others)
    (start, end), (from_, to) = _place(data, draw), _place(other, draw)
    return data[:start] + other[from_:to] + data[end:]


def _change_number(data: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return _flip(data, _, draw)
    one = draw.choice(found)
    return data[: one.start()] + draw.choice(_NUMBERS) + data[one.end() :]


def _swap_lines(data: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    lines = data.split(b"\n")
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


_CHANGES: tuple[Callable[[bytes, Sequence[bytes], random.Random], bytes], ...] = (
    *(_cut, _flip, _flip, _delete, _repeat, _insert, _insert),
    *(_overwrite, _splice, _change_number, _change_number, _swap_lines),
)


def _with_changed_member(data: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """Changes the content of one file in an archive, whose checksum then is right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(one, archive.read(one)) for one in archive.infolist()]
    except Exception:  # an earlier change damaged the archive
        return _flip(data, others, draw)
    chosen = draw.randrange(len(members)) if members else -1
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for index, (info, content) in enumerate(members):
            changed = draw.choice(_CHANGES)(content, others, draw) if index == chosen else content
            archive.writestr(info, changed, compress_type=info.compress_type)
    return written.getvalue()
