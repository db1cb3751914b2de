"""MatMul: the matrix product of two tensors, ONNX MatMul."""

from __future__ import annotations

import torch
from torch import Tensor

from hotwheels.amct_pytorch.custom_op.base import CustomModuleBase


class MatMul(CustomModuleBase):
    """``a @ b`` as a module: ``[..., n, k]`` and ``[..., k, m]`` give ``[..., n, m]``, leading axes broadcast."""

    onnx_type = "MatMul"
    num_inputs = 2

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns the product as a new tensor."""
        return torch.matmul(a, b)
