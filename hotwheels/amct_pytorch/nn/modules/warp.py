"""Warp and GlobalWarp: sampling of an image at positions given by a second input."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ...errors import ConfigError
from ..pico_ops import OPS


class GlobalWarp(nn.Module):
    """Samples the whole image: ``F.grid_sample(x, grid, "nearest", "border", align_corners=True)``.

    -1 and 1 in ``grid`` are the centres of the first and the last pixel; positions outside take the border's pixel and
    positions half-way between two pixels the even one. The gradient with respect to ``grid`` is zero.
    """

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        """Returns (N, C, H_out, W_out) of image (N, C, H, W) and ``grid`` (N, H_out, W_out, 2), last axis (x, y)."""
        y: Tensor = OPS.GlobalWarp(x, grid)
        return y


class Warp(nn.Module):
    """Samples inside a region of the image, as GlobalWarp would sample the image cut to it.

    So -1 and 1 in the grid are the first and the last pixel of the region, not of the image, and positions outside the
    region take its border's pixel, even where the image goes on (our choice, spec 12.1).

    Args:
        roi: The region (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; None for the whole image.

    Raises:
        ConfigError: ``roi`` is not four ints, or is empty, or begins at negative pixels.
        ValueError: In forward, the region reaches beyond the image.
    """

    def __init__(self, roi: Sequence[int] | None = None) -> None:
        """Takes the region."""
        super().__init__()
        self.roi = None if roi is None else _checked_roi(roi)

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        """Returns (N, C, H_out, W_out) of image (N, C, H, W) and ``grid`` (N, H_out, W_out, 2), last axis (x, y)."""
        y: Tensor = OPS.Warp(x, grid, self.roi)
        return y

    def extra_repr(self) -> str:
        """Shows the region."""
        return f"roi={self.roi}"


def _checked_roi(roi: Sequence[int]) -> tuple[int, ...]:
    corners = tuple(roi)
    if len(corners) != 4 or not all(isinstance(corner, int) for corner in corners):
        raise ConfigError(f"roi of Warp must be four ints (x0, y0, x1, y1), got {corners}.")
    left, top, right, bottom = corners
    if not (0 <= left < right and 0 <= top < bottom):
        raise ConfigError(f"roi of Warp must satisfy 0 <= x0 < x1 and 0 <= y0 < y1, got {corners}.")
    return corners
