"""SpaceToDepth: moves blocks of pixels into channels, in the order of ONNX SpaceToDepth."""

from __future__ import annotations

from torch import Tensor, nn

from ..pico_ops import OPS
from ._checks import check_block_size


class SpaceToDepth(nn.Module):
    """(N, C, H, W) -> (N, C b^2, H / b, W / b), where b is ``block_size``.

    Output channel ``(i * b + j) * C + c`` holds pixel (i, j) of each b x b block of input channel c, while
    ``torch.nn.PixelUnshuffle`` puts it in ``c * b^2 + i * b + j``. Undone by DepthToSpace.

    Raises:
        ConfigError: ``block_size`` is not a positive int.
        ValueError: In forward, the input is not NCHW, or H or W is not a multiple of ``block_size``.
    """

    def __init__(self, block_size: int) -> None:
        """Takes the edge of a block in pixels."""
        super().__init__()
        self.block_size = check_block_size(block_size, "SpaceToDepth")

    def forward(self, x: Tensor) -> Tensor:
        """Returns the rearranged copy of ``x``."""
        y: Tensor = OPS.SpaceToDepth(x, self.block_size)
        return y

    def extra_repr(self) -> str:
        """Shows the block size."""
        return f"block_size={self.block_size}"
