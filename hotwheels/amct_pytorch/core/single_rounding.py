"""Rounding of float64 values to float32 values that stay in float64, in one pass instead of two conversions."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from . import native

_ARGUMENTS = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


def as_singles(x: Tensor) -> Tensor:
    """Returns ``x.float().double()`` of a floating tensor; contiguous if ``x`` has more than 2 axes and has gaps."""
    if x.dtype is not torch.float64 or not x.is_cpu:
        return x.float().double()
    if native.is_dense(x):
        return _rounded(x, torch.empty_like(x))
    return round_to_singles(x.contiguous()) if x.dim() > 2 else x.float().double()


def round_to_singles(x: Tensor) -> Tensor:
    """Returns the float64 tensor ``x``, its values rounded to float32 in place."""
    return _rounded(x, x) if x.is_cpu and native.is_dense(x) else x.copy_(x.float())


def _rounded(x: Tensor, out: Tensor) -> Tensor:
    function = native.function("amct_to_singles", _ARGUMENTS)
    if function is None:
        return out.copy_(x.float())
    function(x.data_ptr(), out.data_ptr(), x.numel())
    return out
