"""ONNX element types and the memory of torch tensors."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

_TYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float64: ir.DataType.DOUBLE,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.int8: ir.DataType.INT8,
    torch.int16: ir.DataType.INT16,
    torch.int32: ir.DataType.INT32,
    torch.int64: ir.DataType.INT64,
    torch.uint8: ir.DataType.UINT8,
    torch.bool: ir.DataType.BOOL,
    torch.complex64: ir.DataType.COMPLEX64,
    torch.complex128: ir.DataType.COMPLEX128,
}


def onnx_type(dtype: torch.dtype) -> ir.DataType:
    """Returns the ONNX element type for a torch dtype."""
    return _TYPES[dtype]


def array_of(tensor: Tensor) -> NDArray[Any]:
    """Returns the memory of a CPU tensor as an array, without a copy."""
    tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ir.DataType.BFLOAT16.numpy())
    return tensor.numpy()
