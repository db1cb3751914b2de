"""Reads .npy and .npz files without believing what they claim (docs/security.md)."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import AmctError, ConfigError
from .limits import Limit, check_holes
from .paths import PathLike, check_input_file

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LONGEST_HEADER = 1 << 17  # NumPy refuses headers beyond 10,000 characters
_PART = 1 << 20  # bytes that are unpacked at one time
_KINDS = "biuf"  # bool, integers, floating point


def read_npy(
    path: PathLike,
    what: str = "Array file",
    error_class: type[AmctError] = ConfigError,
    limit: Limit | None = None,
) -> NDArray[Any]:
    """Returns the array of numbers in a .npy file; ``what`` says in messages what the file is.

    Raises:
      FileNotFoundError: There is no such file.
      AmctError: (``error_class``) It is no such file, holds something else, or is larger than ``limit``.
    """
    path = check_input_file(path, what)
    size = path.stat().st_size
    if limit is not None:
        limit.check(size, path, error_class)
    check_holes(path, error_class)
    try:
        with path.open("rb") as file:
            return _read(file, size, lambda dtype, count: np.fromfile(file, dtype, count))
    except _DamagedError as error:
        raise error_class(f"{what} '{path}' is no .npy file of numbers: {error}.") from error


def read_npz(
    path: PathLike,
    what: str,
    error_class: type[AmctError],
    limit: Limit,
    wanted: Callable[[str], bool] = bool,
) -> dict[str, NDArray[Any]]:
    """Returns the arrays of numbers, of those names that are ``wanted``, in a .npz file.

    ``what`` is a noun for messages, see `read_npy`; ``limit`` is that of all arrays together.
    """
    path = check_input_file(path, what.capitalize())
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            limit.check(sum(one.file_size for one in entries), path, error_class)
            names = {one.filename.removesuffix(".npy"): one for one in entries}
            return {name: _from_bytes(_unpacked(archive, one)) for name, one in names.items() if wanted(name)}
    except (AmctError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # a damaged archive raises anything
        raise error_class(f"'{path}' is not a {what}: {_one_line(error)}.") from error


class _DamagedError(ValueError):
    """What is wrong with the content of a .npy file."""


def single(array: NDArray[Any]) -> NDArray[Any]:
    """Returns ``array``, in float32 if it is float64: NumPy's default type, which no model's input has."""
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytearray:
    """Returns the content of an entry; ``archive.read`` would hold it twice."""
    content = bytearray(entry.file_size)
    at = 0
    with archive.open(entry) as file:
        while part := file.read(_PART):
            content[at : at + len(part)] = part
            at += len(part)
    return content


def _from_bytes(content: bytearray) -> NDArray[Any]:
    file = io.BytesIO(content[:_LONGEST_HEADER])
    return _read(file, len(content), lambda dtype, count: np.frombuffer(content, dtype, count, offset=file.tell()))


def _read(file: BinaryIO, size: int, values: Callable[[np.dtype[Any], int], NDArray[Any]]) -> NDArray[Any]:
    """Returns the array in ``file``, which has ``size`` bytes; ``values`` reads what follows the header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers of Python 2
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise _DamagedError(f"it has the version {version}")
            shape, is_fortran, dtype = _HEADERS[version](file)
    except _DamagedError:
        raise
    except Exception as error:  # the header is a Python literal, whose parser raises anything
        raise _DamagedError(_one_line(error)) from error
    if dtype.kind not in _KINDS:
        raise _DamagedError(f"its elements are of type {dtype!s:.80}")
    found, expected = size - file.tell(), math.prod(shape) * dtype.itemsize
    if any(one < 0 for one in shape) or found != expected:
        raise _DamagedError(f"its header says {list(shape)!s:.80} of {dtype}, and {found:,} bytes follow")
    flat = values(dtype, math.prod(shape))
    array = flat.reshape(shape[::-1]).T if is_fortran else flat.reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)
