"""The kernels of kernels.c, where they could be compiled when the package was installed.

A fake quantization is four passes over the memory with torch's kernels, and its backward six; these take one. Both give
the same values bit for bit, but for the last bits of sums. What a caller asks first is `handles`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os

import torch
from torch import Tensor

from ..log import get_logger

_log = get_logger(__name__)
# For tests and in case of doubt: any text but "0" switches the kernels off.
SWITCH = "AMCT_NO_KERNELS"
_BLOCK = 32768  # of kernels.c
_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_SIGNATURES = {
    "amct_fake_quantize": (_POINTER, _POINTER, _LONG, _FLOAT, _FLOAT, _FLOAT),
    "amct_learned_range": (_POINTER, _POINTER, _LONG, _FLOAT, _FLOAT, _FLOAT, _POINTER),
    "amct_unfold": (_POINTER, _POINTER, _LONG, _LONG, _POINTER, _POINTER, _POINTER, _INT, _FLOAT),
    "amct_unfold_backward": (*(_POINTER,) * 2, _LONG, _LONG, *(_POINTER,) * 3, _INT, _FLOAT, _POINTER),
}


def _is_off() -> bool:
    return os.environ.get(SWITCH, "0") != "0"


def _load() -> ctypes.CDLL | None:
    found = importlib.util.find_spec(f"{__package__}._kernels")
    if found is None or found.origin is None or _is_off():
        return None
    library = ctypes.CDLL(found.origin)  # not imported: it is no Python module, so that it compiles without Python.h
    for name, arguments in _SIGNATURES.items():
        getattr(library, name).argtypes = arguments
    return library


_library = _load()


def handles(*tensors: Tensor) -> bool:
    """Whether the kernels are there and take these tensors: float32, on the CPU, all dense in the same memory order."""
    first = tensors[0]
    fits = all(
        x.dtype == torch.float32 and x.device.type == "cpu" and x.stride() == first.stride() and is_dense(x)
        for x in tensors
    )
    if fits and _library is None and first.numel() > _BLOCK:
        _tell_missing()
    return fits and _library is not None


@functools.cache
def _tell_missing() -> None:
    if not _is_off():
        _log.warning(
            "The compiled kernels are missing, so quantization on the CPU takes longer, a training step about twice as"
            " long. Install a C compiler (Debian: gcc and libc6-dev), then this package again."
        )


def fake_quantize(x: Tensor, out: Tensor, step: float, low: float, high: float) -> bool:
    """Puts ``clamp(rhe(x / step), low, high) * step`` into ``out``, maybe ``x``; returns whether ``x`` has NaN."""
    assert _library is not None
    return bool(_library.amct_fake_quantize(x.data_ptr(), out.data_ptr(), x.numel(), step, low, high))


def learned_range(x: Tensor, grad: Tensor, step: float, bottom: float, top: float) -> Tensor:
    """Puts 0 into ``grad`` where ``x`` is outside [bottom, top].

    Returns the sums of ``(rhe(x / step) - x / step) * grad`` inside, and of ``grad`` below and above: float64 [3].
    """
    assert _library is not None
    sums = torch.empty(-(-x.numel() // _BLOCK), 3, dtype=torch.float64)
    _library.amct_learned_range(x.data_ptr(), grad.data_ptr(), x.numel(), step, bottom, top, sums.data_ptr())
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


def unfold_backward(
    grad: Tensor, weight: Tensor, factor: Tensor, inverse: Tensor, step: Tensor, end: int
) -> Tensor:
    """Returns ``sum(grad * (w - unfold(w, ...)))`` of each row, [C]."""
    assert _library is not None
    dots, vectors = grad.new_empty(grad.shape[0]), [one.contiguous() for one in (factor, inverse, step)]
    pointers = [one.data_ptr() for one in vectors]
    _library.amct_unfold_backward(
        grad.data_ptr(), weight.data_ptr(), *_rows(weight), *pointers, step.dim(), end, dots.data_ptr()
    )
    return dots


def _rows(weight: Tensor) -> tuple[int, int]:
    """Number of rows, and elements in each."""
    return weight.shape[0], weight.numel() // max(1, weight.shape[0])


def is_dense(x: Tensor) -> bool:
    """Whether ``x`` fills its memory without gaps, in the usual order or channels last."""
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
