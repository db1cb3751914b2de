"""Limits of the readers: a larger file is refused. docs/security.md lists the limits; a test compares both lists."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from ..errors import AmctError, ConfigError

_MIB = 1 << 20
_LARGE = 64 * _MIB  # smaller files are not searched for holes
_SEEK_DATA, _SEEK_HOLE = getattr(os, "SEEK_DATA", None), getattr(os, "SEEK_HOLE", None)  # None: no Unix


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limit:
    """The most that a reader accepts.

    Attributes:
      what: The limited document, a noun with its article.
      most: The largest number that is accepted.
      unit: The unit of ``most``.
    """

    what: str
    most: int
    unit: str = "bytes"

    def check(self, found: int, source: object, error_class: type[AmctError] = ConfigError) -> None:
        """Raises ``error_class`` if ``found`` is more; ``source`` is the file's name in the message."""
        if found > self.most:
            raise error_class(
                f"'{source}' has {found:,} {self.unit}; {self.what} may have at most {self.most:,} (files/limits.py)."
            )


# Texts. A slow core reads a file as large as its limit in 1 to 6 seconds.
SIMPLE_CONFIG = Limit(what="a simple configuration", most=_MIB // 4)
SIMPLE_CONFIG_EXPANDED = Limit(
    what="a simple configuration with its aliases written out", most=1 * _MIB, unit="characters"
)
YAML_DEPTH = Limit(what="YAML", most=100, unit="levels of nesting")  # real files nest four deep
YAML_NUMBER = Limit(what="a number in a simple configuration", most=100, unit="characters")
CONFIG = Limit(what="a config.json", most=16 * _MIB)
TOLERANT_JSON = Limit(what="JSON with comments, or with commas too many or missing,", most=4 * _MIB)
OM_JSON = Limit(what="an om.json", most=16 * _MIB)
JSON_DEPTH = Limit(what="JSON", most=100, unit="levels of nesting")  # real files nest six deep
RECORD = Limit(what="a record or parameter file as text", most=64 * _MIB)
RECORD_OTHER_FORM = Limit(what="a record that is not written one field a line", most=1 * _MIB)
RECORD_BINARY = Limit(what="a parameter file in binary form", most=64 * _MIB)
RECORD_LAYERS = Limit(what="a parameter file", most=1 << 18, unit="layers and inputs")
MANIFEST = Limit(what="a manifest", most=1 * _MIB)

# Binary files. What a header claims is compared with what follows before memory is taken for it.
ONNX_FILE = Limit(what="an ONNX model without its external data", most=(1 << 31) - 1)  # protobuf's own limit
ONNX_PARTS = Limit(what="an ONNX model", most=1 << 20, unit="nodes, values, attributes and tensors")
ARCHIVE = Limit(what="a golden file when it is unpacked", most=512 * _MIB)
GOLDEN_VALUES = Limit(what="the values in a golden file", most=1 << 26, unit="elements")
DUMP = Limit(what="a dumped tensor", most=512 * _MIB)
DUMP_TEXT = Limit(what="a dumped tensor as text", most=256 * _MIB)
ORACLE_MEMORY = Limit(what="a run in the oracle, beside four times the tensors of the model", most=640 * _MIB)
ORACLE_WORK = Limit(what="a run in the oracle", most=25 * 10**9, unit="operations")  # about 10 s of a core
RUNTIME_MEMORY = Limit(what="a run in onnxruntime, beside four times its model", most=512 * _MIB)
RUNTIME_SECONDS = Limit(what="a run in onnxruntime", most=10, unit="seconds")

# Most warnings of one kind about one file; one more line has the number of the others.
WARNINGS = 10


def read_limited(path: Path, limit: Limit, error_class: type[AmctError] = ConfigError) -> bytes:
    """Returns the content of a file.

    Raises:
      AmctError: (``error_class``) The file is larger than ``limit``; it is then not read.
    """
    limit.check(path.stat().st_size, path, error_class)
    check_holes(path, error_class)
    with path.open("rb") as file:
        content = file.read(path.stat().st_size + 1)  # memory is taken for as many bytes as are asked for
        while (more := file.read(_MIB)) and len(
            content
        ) <= limit.most:  # a file that grows, or has no size, as in /proc
            content += more
    limit.check(len(content), path, error_class)
    return content


def check_holes(path: Path, error_class: type[AmctError] = ConfigError) -> None:
    """Raises ``error_class`` for a large file of which more than half was never written (holes)."""
    size = path.stat().st_size
    if size < _LARGE or _SEEK_DATA is None or _SEEK_HOLE is None:
        return
    with path.open("rb") as file:
        written = _written(file.fileno(), size, _SEEK_DATA, _SEEK_HOLE)
    if 2 * written < size:
        raise error_class(
            f"'{path}' claims {size:,} bytes, of which {written:,} were ever written; the others are holes. Copy the"
            " file again."
        )


def _written(descriptor: int, size: int, seek_data: int, seek_hole: int) -> int:
    """Returns the bytes that lie in no hole; a file system without holes calls all of them data."""
    written = end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, seek_data)
            end = os.lseek(descriptor, start, seek_hole)
        except OSError:  # no data is behind ``end``
            break
        written += end - start
    return written
