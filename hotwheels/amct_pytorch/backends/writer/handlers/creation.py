"""Tensors whose sizes depend on the inputs; tensors with known sizes are constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..call import Call, Scalar
from ..table import REFUSED, Written, handles
from ..types import onnx_type


@handles("zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty")
def zeros(call: Call, *args: Any, **kwargs: Any) -> Written:
    """Writes ConstantOfShape with 0."""
    return _filled(call, 0)


@handles("ones", "ones_like", "new_ones")
def ones(call: Call, *args: Any, **kwargs: Any) -> Written:
    """Writes ConstantOfShape with 1."""
    return _filled(call, 1)


@handles("full", "full_like")
def full(call: Call, shape_of: Any, fill_value: Scalar, **kwargs: Any) -> Written:
    """Writes ConstantOfShape, or Expand of a number that depends on sizes."""
    return _filled(call, fill_value)


@handles("new_full")
def new_full(call: Call, input: Tensor, size: Any, fill_value: Scalar, **kwargs: Any) -> Written:
    """Writes ConstantOfShape, or Expand of a number that depends on sizes."""
    return _filled(call, fill_value)


def _filled(call: Call, number: Scalar | Tensor) -> Written:
    shape = call.ints(call.result.shape)
    dtype = call.result.dtype
    if isinstance(number, (bool, int, float)):
        value = np.array([number], dtype=onnx_type(dtype).numpy())
        return call.op("ConstantOfShape", shape, value=value)
    return call.op("Expand", call.value(number, dtype), shape)


@handles("arange")
def arange(call: Call, *args: Any, **kwargs: Any) -> Written:
    """Writes Range, of integers if all arguments are integers."""
    start, end, step = (0, *args, 1)[:3] if len(args) == 1 else (*args, 1)[:3] if args else (None, None, None)
    start, end, step = kwargs.get("start", start or 0), kwargs.get("end", end), kwargs.get("step", step or 1)
    if end is None or not all(isinstance(one, (int, torch.SymInt)) for one in (start, end, step)):
        return REFUSED
    found = call.op("Range", *(call.scalar_int(one) for one in (start, end, step)))
    dtype = call.result.dtype
    return found if dtype is torch.int64 else call.op("Cast", found, to=int(onnx_type(dtype)))
