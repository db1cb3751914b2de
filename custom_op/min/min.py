"""Min: the smallest values along an axis, ONNX ReduceMin."""

from __future__ import annotations

import torch
from torch import Tensor

from hotwheels.amct_pytorch.custom_op.base import CustomModuleBase


class Min(CustomModuleBase):
    """The values, without the indices, of torch.min as a module.

    Args:
        dim: Axis that is reduced; negative ones count from the last. None reduces all axes.
        keepdim: If True, a reduced axis is kept with length 1. With ``dim=None`` the result then has as many axes as
            the input, as in ONNX ReduceMin and unlike ``torch.min(x)``, which is ``Min(keepdim=False)``.
    """

    onnx_type = "ReduceMin"
    num_inputs = 1

    def __init__(self, dim: int | None = None, keepdim: bool = True) -> None:
        """Stores the axis and whether it is kept."""
        super().__init__()
        self.dim = dim
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """Returns the smallest values as a new tensor."""
        # Not torch.min, which has no keepdim for all axes. The values are the same; torch.amin divides the gradient
        # among equal elements, torch.min with an axis gives all of it to one of them.
        axes = tuple(range(x.dim())) if self.dim is None else self.dim
        return torch.amin(x, axes, self.keepdim)

    def extra_repr(self) -> str:
        """Shows the arguments."""
        return f"dim={self.dim}, keepdim={self.keepdim}"
