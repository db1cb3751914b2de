"""EltwiseSub: the difference of two tensors, ONNX Sub."""

from __future__ import annotations

from torch import Tensor

from hotwheels.amct_pytorch.custom_op.base import CustomModuleBase


class EltwiseSub(CustomModuleBase):
    """``a - b`` as a module; the shapes broadcast as in torch.sub."""

    onnx_type = "Sub"
    num_inputs = 2

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns the difference as a new tensor."""
        return a - b
