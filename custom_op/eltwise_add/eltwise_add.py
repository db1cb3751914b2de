"""EltwiseAdd: the sum of two tensors, ONNX Add."""

from __future__ import annotations

from torch import Tensor

from hotwheels.amct_pytorch.custom_op.base import CustomModuleBase


class EltwiseAdd(CustomModuleBase):
    """``a + b`` as a module; the shapes broadcast as in torch.add."""

    onnx_type = "Add"
    num_inputs = 2

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns the sum as a new tensor."""
        return a + b
