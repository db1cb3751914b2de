"""Cat: tensors joined along an axis, ONNX Concat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hotwheels.amct_pytorch.custom_op.base import CustomModuleBase


class Cat(CustomModuleBase):
    """torch.cat as a module; every joined tensor is an input.

    Args:
        dim: Axis along which the tensors are joined; negative ones count from the last.
    """

    onnx_type = "Concat"

    def __init__(self, dim: int = 0) -> None:
        """Takes the axis."""
        super().__init__()
        self.dim = dim

    def forward(self, *xs: Tensor | Sequence[Tensor]) -> Tensor:
        """Returns the joined tensor; ``xs`` are the tensors, or one list or tuple of them."""
        is_one_sequence = len(xs) == 1 and isinstance(xs[0], (list, tuple))
        return torch.cat(xs[0] if is_one_sequence else xs, dim=self.dim)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        """Shows the axis."""
        return f"dim={self.dim}"
