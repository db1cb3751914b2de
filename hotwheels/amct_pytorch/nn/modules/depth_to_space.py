"""DepthToSpace: moves channels into blocks of pixels, in the order of ONNX DepthToSpace, mode DCR."""

from __future__ import annotations

from torch import Tensor, nn

from ..pico_ops import OPS
from ._checks import check_block_size


class DepthToSpace(nn.Module):
    """(N, C b^2, H, W) -> (N, C, H b, W b), where b is ``block_size``; the inverse of SpaceToDepth.

    Input channel ``(i * b + j) * C + c`` becomes pixel (i, j) of each b x b block of output channel c (depth, column,
    row: DCR), while ``torch.nn.PixelShuffle`` reads it from ``c * b^2 + i * b + j`` (CRD).

    Raises:
        ConfigError: ``block_size`` is not a positive int.
        ValueError: In forward, the input is not NCHW, or its channels are not a multiple of ``block_size ** 2``.
    """

    def __init__(self, block_size: int) -> None:
        """Takes the edge of a block in pixels."""
        super().__init__()
        self.block_size = check_block_size(block_size, "DepthToSpace")

    def forward(self, x: Tensor) -> Tensor:
        """Returns the rearranged copy of ``x``."""
        y: Tensor = OPS.DepthToSpaceDCR(x, self.block_size)
        return y

    def extra_repr(self) -> str:
        """Shows the block size."""
        return f"block_size={self.block_size}"
