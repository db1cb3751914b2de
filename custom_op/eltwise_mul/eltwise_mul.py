"""EltwiseMul: the product of two tensors, ONNX Mul."""

from __future__ import annotations

from torch import Tensor

from hotwheels.amct_pytorch.custom_op.base import CustomModuleBase


class EltwiseMul(CustomModuleBase):
    """``a * b`` as a module; the shapes broadcast as in torch.mul."""

    onnx_type = "Mul"
    num_inputs = 2

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns the product as a new tensor."""
        return a * b
