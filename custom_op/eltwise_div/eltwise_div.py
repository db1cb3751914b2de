"""EltwiseDiv: the quotient of two tensors, ONNX Div."""

from __future__ import annotations

from torch import Tensor

from hotwheels.amct_pytorch.custom_op.base import CustomModuleBase


class EltwiseDiv(CustomModuleBase):
    """``a / b`` as a module; the shapes broadcast as in torch.div."""

    onnx_type = "Div"
    num_inputs = 2

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns the quotient as a new tensor."""
        return a / b
