"""The kernels of core/*.c, if they could be compiled when the package was installed.

A fake quantization is four passes over the memory with torch's kernels, and its backward six; these kernels take one.
Both give the same values bit for bit, except for the last bits of sums. Callers check `handles`, or `is_there`, first.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..log import get_logger

Values = NDArray[np.float32]

_log = get_logger(__name__)
# For tests and in case of doubt: any text but "0" switches the kernels off.
SWITCH = "AMCT_NO_KERNELS"
_BLOCK = 32768  # of kernels.c
ABI = 5  # of kernels.c: raise both numbers with each change of a function's signature or meaning
# Of ELF-64 (man 5 elf): e_ident, e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize,
# e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx.
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_FLOAT, _DOUBLE = ctypes.c_float, ctypes.c_double
_SIGNATURES: Mapping[str, tuple[Any, ...]] = {
    "amct_fake_quantize": (_POINTER, _POINTER, _LONG, _FLOAT, _FLOAT, _FLOAT),
    "amct_learned_range": (*(_POINTER,) * 3, _LONG, _FLOAT, _FLOAT, _FLOAT, _POINTER),
    "amct_unfold": (_POINTER, _POINTER, _LONG, _LONG, _POINTER, _POINTER, _POINTER, _INT, _FLOAT),
    "amct_unfold_backward": (*(_POINTER,) * 2, _LONG, _LONG, *(_POINTER,) * 3, _INT, _FLOAT, _POINTER),
    "amct_row_extremes": (_POINTER, _LONG, _LONG, _POINTER, _POINTER),
    "amct_quantize_weight": (_POINTER, _POINTER, _LONG, _LONG, _POINTER, _INT, _FLOAT),
}
_TO_GRID = (_DOUBLE, _DOUBLE, _DOUBLE, _FLOAT, _FLOAT)  # bottom, top, scale, low, high
_OUT = (_POINTER, _INT, _FLOAT)  # memory, whether it takes bytes, what is added for bytes
# A library of an older version of this file lacks these: see `has_integer_kernels`.
_INTEGER_SIGNATURES: Mapping[str, tuple[Any, ...]] = {
    "amct_requantize": (_POINTER, _INT, *_OUT, _LONG, _LONG, _POINTER, _FLOAT, _FLOAT),
    "amct_requantize_affine": (_POINTER, _INT, *_OUT, _LONG, _LONG, _POINTER, _POINTER, *_TO_GRID),
    "amct_requantize_total": (*(_POINTER, _DOUBLE) * 2, *_OUT, _LONG, *_TO_GRID),
    "amct_requantize_product": (*(_POINTER, _DOUBLE) * 2, *_OUT, *(_LONG,) * 3, _INT, *_TO_GRID[2:]),
    "amct_look_up": (_POINTER, *_OUT, _LONG, _POINTER, ctypes.c_int32, _FLOAT),
    "amct_to_bytes": (_POINTER, _POINTER, _LONG, _FLOAT),
    "amct_row_sums": (_POINTER, _LONG, _LONG, _POINTER, _POINTER),
}


def _is_off() -> bool:
    return os.environ.get(SWITCH, "0") != "0"


class UnusableLibrary(Exception):
    """The compiled kernels cannot be used; the text says why and continues "The compiled kernels ..."."""


def load(path: Path | None) -> ctypes.CDLL:
    """Returns the library at ``path``, with the types of its functions set.

    Raises:
      UnusableLibrary: The library is missing, damaged, of another version, or compiled for another machine.
    """
    if path is None:
        raise UnusableLibrary("are missing")
    try:
        _require_whole(path)
        library = ctypes.CDLL(str(path))
    except OSError as error:  # compiled for another processor, or its OpenMP runtime is missing
        raise UnusableLibrary(f"cannot be loaded ({error})") from error
    found = library.amct_abi() if hasattr(library, "amct_abi") else 0
    if found != ABI:
        raise UnusableLibrary(f"in '{path}' are of another version of this package (ABI {found}, expected {ABI})")
    for name, arguments in _SIGNATURES.items():
        if not hasattr(library, name):
            raise UnusableLibrary(f"in '{path}' lack the function {name}")
        getattr(library, name).argtypes = arguments
    for name, arguments in _INTEGER_SIGNATURES.items():
        if hasattr(library, name):
            getattr(library, name).argtypes = arguments
    return library


def _require_whole(path: Path) -> None:
    """Raises OSError for an ELF library that was cut off: loading one ends the process with a bus error."""
    with path.open("rb") as file:
        header = file.read(_ELF_HEADER.size)
        size = file.seek(0, os.SEEK_END)
    if not header.startswith(b"\x7fELF\x02\x01"):  # 64 bits, little endian; other formats are checked by their loaders
        return
    if len(header) < _ELF_HEADER.size:
        raise OSError(f"{path}: file too short")
    *_, sections, _, _, _, _, entry_size, entries, _ = _ELF_HEADER.unpack(header)
    if size < sections + entry_size * entries:  # the table of sections is the last part of the file
        raise OSError(f"{path}: file too short")


def _find() -> Path | None:
    found = importlib.util.find_spec(f"{__package__}._kernels")
    return None if found is None or found.origin is None else Path(found.origin)


def _load_or_say_why() -> tuple[ctypes.CDLL | None, str]:
    """Returns (library, ""), or (None, reason) if the kernels cannot be used."""
    if _is_off():
        return None, "are switched off"
    try:  # not imported: it is no Python module, so that it compiles without Python.h
        return load(_find()), ""
    except UnusableLibrary as error:
        return None, str(error)


_library, _why_not = _load_or_say_why()


def is_there() -> bool:
    """Whether the compiled kernels are loaded."""
    return _library is not None


def function(name: str, arguments: tuple[Any, ...], result: Any = _INT) -> Any:
    """Returns a function of the library with these types; None without the library, or if that is older."""
    return None if _library is None else _typed(_library, name, arguments, result)


@functools.lru_cache(maxsize=64)
def _typed(library: ctypes.CDLL, name: str, arguments: tuple[Any, ...], result: Any) -> Any:
    found = getattr(library, name, None)
    if found is not None:
        found.argtypes, found.restype = arguments, result
    return found


def why_missing() -> str:
    """Returns why the kernels are not there; the text continues "The compiled kernels ..." and is empty if they are."""
    return _why_not


def handles(*tensors: Tensor) -> bool:
    """Whether the kernels are loaded and fit these tensors: float32, on the CPU, all dense in the same memory order."""
    first = tensors[0]
    for x in tensors:
        if x.dtype is not torch.float32 or not x.is_cpu or not is_dense(x):
            return False
        if x is not first and x.stride() != first.stride():
            return False
    if _library is None and first.numel() > _BLOCK:
        _tell_missing()
    return _library is not None


@functools.cache
def _tell_missing() -> None:
    if not _is_off():
        _log.warning(
            "The compiled kernels %s, so quantization on the CPU takes longer, a training step about twice as long."
            " Install this package again, where there is a C compiler (Debian: gcc and libc6-dev).",
            _why_not,
        )


def fake_quantize(x: Tensor, out: Tensor, step: float, low: float, high: float) -> bool:
    """Puts ``clamp(rhe(x / step), low, high) * step`` into ``out`` (may be ``x``); returns whether ``x`` holds NaN."""
    assert _library is not None
    return bool(_library.amct_fake_quantize(x.data_ptr(), out.data_ptr(), x.numel(), step, low, high))


def learned_range(x: Tensor, grad: Tensor, out: Tensor, step: float, bottom: float, top: float) -> Tensor:
    """Puts ``grad`` into ``out`` (may be ``grad``), but 0 where ``x`` is outside [bottom, top].

    Returns the sums of ``(rhe(x / step) - x / step) * grad`` inside, and of ``grad`` below and above: float64 [3].
    """
    assert _library is not None
    sums = torch.empty(-(-x.numel() // _BLOCK), 3, dtype=torch.float64)
    pointers = x.data_ptr(), grad.data_ptr(), out.data_ptr()
    _library.amct_learned_range(*pointers, x.numel(), step, bottom, top, sums.data_ptr())
    return sums.sum(0)


def unfold(weight: Tensor, factor: Tensor, inverse: Tensor, step: Tensor, end: int) -> Tensor:
    """Returns ``clamp(rhe(w * factor / step), -1 - end, end) * step * inverse`` for the rows w of a weight [C, ...].

    ``factor`` and ``inverse`` are [C], ``step`` is [C] or [].
    """
    assert _library is not None
    out, vectors = torch.empty_like(weight), [one.contiguous() for one in (factor, inverse, step)]
    pointers = [one.data_ptr() for one in vectors]
    _library.amct_unfold(weight.data_ptr(), out.data_ptr(), *_rows(weight), *pointers, step.dim(), end)
    return out


def unfold_backward(grad: Tensor, weight: Tensor, factor: Tensor, inverse: Tensor, step: Tensor, end: int) -> Tensor:
    """Returns ``sum(grad * (w - unfold(w, ...)))`` of each row, [C]."""
    assert _library is not None
    dots, vectors = grad.new_empty(grad.shape[0]), [one.contiguous() for one in (factor, inverse, step)]
    pointers = [one.data_ptr() for one in vectors]
    _library.amct_unfold_backward(
        grad.data_ptr(), weight.data_ptr(), *_rows(weight), *pointers, step.dim(), end, dots.data_ptr()
    )
    return dots


def row_extremes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the smallest and the largest value of each row of ``rows`` [n, m], NaN where one is NaN."""
    assert _library is not None
    lows, highs = torch.empty(rows.shape[0]), torch.empty(rows.shape[0])
    _library.amct_row_extremes(rows.data_ptr(), *rows.shape, lows.data_ptr(), highs.data_ptr())
    return lows, highs


def quantize_weight(weight: Values, step: Values, end: int) -> NDArray[np.int8]:
    """Returns ``clamp(rhe(w / step), -1 - end, end)`` for the rows w of ``weight`` [C, ...]; ``step`` is [C] or [1]."""
    assert _library is not None
    x, steps = (np.ascontiguousarray(one, dtype=np.float32) for one in (weight, step))
    out, size = np.empty(x.shape, dtype=np.int8), x.size // max(1, x.shape[0])
    pointers = x.ctypes.data, out.ctypes.data
    _library.amct_quantize_weight(*pointers, x.shape[0], size, steps.ctypes.data, steps.size > 1, end)
    return out


def has_integer_kernels() -> bool:
    """Whether the kernels below are loaded."""
    return _library is not None and _is_recent(_library)


@functools.lru_cache(maxsize=64)
def _is_recent(library: ctypes.CDLL) -> bool:
    return all(hasattr(library, name) for name in _INTEGER_SIGNATURES)


def _into(out: Tensor, zero: int) -> tuple[int, bool, int]:
    """Returns ``out`` as the kernels take it: float32, or uint8 which gets all integers plus ``zero``."""
    return out.data_ptr(), out.dtype is torch.uint8, zero


def requantize(sums: Tensor, out: Tensor, factor: Tensor, ends: tuple[int, int], zero: int = 0) -> None:
    """Puts ``clamp(rhe(fl32(sums) * factor), *ends)`` into ``out``.

    ``sums``, float32 or float64, and ``out``, float32, are dense in the same order; ``factor`` [columns] is float32.
    An element belongs to the column of its place in memory modulo the number of columns. ``out`` may be uint8, here and
    in the next functions: it gets the integers plus ``zero``, which are in [0, 255].
    """
    assert _library is not None
    columns = factor.numel()
    shape = sums.data_ptr(), sums.dtype is torch.float64, *_into(out, zero), sums.numel() // columns, columns
    _library.amct_requantize(*shape, factor.data_ptr(), *ends)


def requantize_affine(
    sums: Tensor,
    out: Tensor,
    step: Tensor,
    bias: Tensor,
    bounds: tuple[float, float],
    scale: float,
    ends: tuple[int, int],
    zero: int = 0,
) -> None:
    """Puts ``clamp(rhe(clamp(sums * step + bias, *bounds) / scale), *ends)``, computed in float64, into ``out``.

    ``step`` and ``bias`` [columns] are float64; see `requantize`.
    """
    assert _library is not None
    columns = step.numel()
    shape = sums.data_ptr(), sums.dtype is torch.float64, *_into(out, zero), sums.numel() // columns, columns
    _library.amct_requantize_affine(*shape, step.data_ptr(), bias.data_ptr(), *bounds, scale, *ends)


_Terms = tuple[tuple[Tensor, float], tuple[Tensor, float]]


def requantize_total(
    terms: _Terms, out: Tensor, bounds: tuple[float, float], scale: float, ends: tuple[int, int], zero: int = 0
) -> None:
    """Puts ``clamp(rhe(clamp(a * s + b * t, *bounds) / scale), *ends)`` for ``((a, s), (b, t))`` into ``out``.

    All tensors are float32.
    """
    assert _library is not None
    (a, step_a), (b, step_b) = terms
    given = a.data_ptr(), step_a, b.data_ptr(), step_b, *_into(out, zero), out.numel()
    _library.amct_requantize_total(*given, *bounds, scale, *ends)


def requantize_product(
    terms: _Terms,
    out: Tensor,
    shape: tuple[int, int, int],
    is_row: bool,
    scale: float,
    ends: tuple[int, int],
    zero: int = 0,
) -> None:
    """Puts ``clamp(rhe((a * s) * (b * t) / scale), *ends)`` for ``((a, s), (b, t))`` into ``out``.

    In memory ``a`` is ``shape``, [blocks, rows, columns], and ``b`` [blocks, columns] if it ``is_row``, else
    [blocks, rows]. All tensors are float32.
    """
    assert _library is not None
    (a, step_a), (b, step_b) = terms
    given = a.data_ptr(), step_a, b.data_ptr(), step_b, *_into(out, zero), *shape
    _library.amct_requantize_product(*given, is_row, scale, *ends)


def look_up(x: Tensor, out: Tensor, table: Tensor, first: int, zero: int = 0) -> None:
    """Puts ``table[x - first]`` into ``out``; all are float32, ``x`` holds integers inside the table."""
    assert _library is not None
    _library.amct_look_up(x.data_ptr(), *_into(out, zero), x.numel(), table.data_ptr(), table.numel(), first)


def to_bytes(x: Tensor, zero: int) -> Tensor:
    """Returns ``x + zero``, integers in [0, 255], as uint8; ``x`` is float32 and dense."""
    assert _library is not None
    out = torch.empty_like(x, dtype=torch.uint8)
    _library.amct_to_bytes(x.data_ptr(), out.data_ptr(), x.numel(), zero)
    return out


def row_sums(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the sums of the positive and of the negated negative integers of each row of ``rows`` int8 [n, m]."""
    assert _library is not None
    sums = torch.empty(2, rows.shape[0], dtype=torch.int64)
    _library.amct_row_sums(rows.data_ptr(), *rows.shape, sums[0].data_ptr(), sums[1].data_ptr())
    return sums[0], sums[1]


def _rows(weight: Tensor) -> tuple[int, int]:
    """Number of rows, and elements in each."""
    return weight.shape[0], weight.numel() // max(1, weight.shape[0])


def is_dense(x: Tensor) -> bool:
    """Whether ``x`` fills its memory without gaps, in the usual order or channels last."""
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
