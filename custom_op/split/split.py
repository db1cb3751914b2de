"""Split: a tensor cut into pieces along an axis, ONNX Split."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hotwheels.amct_pytorch.custom_op.base import CustomModuleBase


class Split(CustomModuleBase):
    """torch.split as a module; also replaces torch.chunk, which the exporter writes as several nodes at opset 13.

    Args:
        split_size_or_sections: Length of each piece (the last may be shorter), or the list of all lengths.
        dim: Axis that is cut; negative ones count from the last.
    """

    onnx_type = "Split"
    num_inputs = 1

    def __init__(self, split_size_or_sections: int | Sequence[int], dim: int = 0) -> None:
        """Takes the lengths and the axis."""
        super().__init__()
        self.split_size_or_sections = (
            split_size_or_sections if isinstance(split_size_or_sections, int) else list(split_size_or_sections)
        )
        self.dim = dim

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Returns the pieces in order; they are views of ``x``."""
        return tuple(torch.split(x, self.split_size_or_sections, dim=self.dim))

    def extra_repr(self) -> str:
        """Shows the arguments."""
        return f"{self.split_size_or_sections}, dim={self.dim}"
