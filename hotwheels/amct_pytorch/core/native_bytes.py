"""The kernels of byte_kernels.c, which read integers as bytes; see `native`."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from . import native

_POINTER, _LONG = ctypes.c_void_p, ctypes.c_int64
_LOOK_UP = (_POINTER, _POINTER, ctypes.c_int, ctypes.c_float, _LONG, _POINTER)
_PIXEL_SUMS = (_POINTER, _LONG, _LONG, _LONG, _POINTER)


def look_up_bytes(x: Tensor, out: Tensor, table: Tensor, zero: int = 0) -> None:
    """Puts ``table[x]`` into ``out``: float32, or uint8, which gets the integers plus ``zero``.

    ``x`` is uint8, dense in the order of ``out``; ``table`` is float32 [256].
    """
    function = native.function("amct_look_up_bytes", _LOOK_UP)
    assert function is not None
    function(x.data_ptr(), out.data_ptr(), out.dtype is torch.uint8, zero, x.numel(), table.data_ptr())


def pixel_sums(x: Tensor) -> Tensor:
    """Returns the sums of each channel of each image, int32 [N, C]; ``x`` is uint8 [N, C, H, W], channels last."""
    function = native.function("amct_pixel_sums", _PIXEL_SUMS)
    assert function is not None
    images, channels, height, width = x.shape
    out = torch.empty(images, channels, dtype=torch.int32)
    function(x.data_ptr(), images, height * width, channels, out.data_ptr())
    return out
