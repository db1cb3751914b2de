"""Columns: a weighted operation as a matrix product, ``output = weight @ column``, for every group of channels.

A column holds the inputs that one output position reads: [C_in / groups * kh * kw] for a convolution, [C_in] for a
Linear. Weights are [groups, C_out / groups, K] then.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """How a convolution reads its input; the defaults are those of a Linear, which reads the last axis.

    Attributes:
      kernel: Height and width of the kernel; None for a Linear.
      stride: Step between output positions.
      dilation: Step between the elements of the kernel.
      padding: Zeros in front of and behind each axis: left, right, top, bottom, as `torch.nn.functional.pad` takes it.
      upsampling: Distance between inputs after zeros were put between them (transposed convolutions); 1 without.
      groups: Number of groups of channels.
      mode: Padding mode of `torch.nn.functional.pad`.
      is_reversed: Whether the kernel meets its window in reverse order (transposed convolutions).
    """

    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    upsampling: tuple[int, int] = (1, 1)
    groups: int = 1
    mode: str = "constant"
    is_reversed: bool = False


def as_rows(weight: Tensor, groups: int) -> Tensor:
    """Returns ``weight`` [C_out, C_in / groups, ...] as [groups, C_out / groups, K]; a view."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def columns(geometry: Geometry, inputs: list[Tensor], count: int, generator: torch.Generator) -> list[Tensor]:
    """Returns ``count`` columns of each of the ``inputs``, drawn at the same positions in all of them.

    All columns if there are fewer. Each result is [groups, positions, K], float32, on the device of its input.

    Args:
      geometry: How the operation reads its input.
      inputs: Tensors of one shape, [N, C, H, W], or [..., C] for a Linear.
      count: Largest number of positions.
      generator: Draws the positions, on the CPU.
    """
    if geometry.kernel is None:
        return _linear_columns(inputs, count, generator)
    views = [_windows(geometry, x.float()) for x in inputs]
    n, _, height, width = views[0].shape[:4]
    drawn = _draw(n * height * width, count, generator, inputs[0].device)
    image, place = drawn // (height * width), drawn % (height * width)
    taken = [view[image, :, place // width, place % width] for view in views]  # [P, C, kh, kw]
    if geometry.is_reversed:
        taken = [one.flip(2, 3) for one in taken]
    shape = (len(drawn), geometry.groups, taken[0].shape[1:].numel() // geometry.groups)
    return [one.reshape(shape).transpose(0, 1).contiguous() for one in taken]


def _linear_columns(inputs: list[Tensor], count: int, generator: torch.Generator) -> list[Tensor]:
    rows = [x.float().reshape(-1, x.shape[-1]) for x in inputs]
    drawn = _draw(len(rows[0]), count, generator, rows[0].device)
    return [one[drawn].unsqueeze(0) for one in rows]


def _draw(total: int, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    drawn = torch.randperm(total, generator=generator)[:count] if total > count else torch.arange(total)
    return drawn.sort().values.to(device)


def _windows(geometry: Geometry, x: Tensor) -> Tensor:
    """A view [N, C, out_h, out_w, kh, kw] of the padded input."""
    assert geometry.kernel is not None
    up_h, up_w = geometry.upsampling
    if (up_h, up_w) != (1, 1):
        n, c, height, width = x.shape
        spread = x.new_zeros(n, c, (height - 1) * up_h + 1, (width - 1) * up_w + 1)
        spread[:, :, ::up_h, ::up_w] = x
        x = spread
    if any(geometry.padding):
        x = F.pad(x, geometry.padding, mode=geometry.mode)
    n, c, height, width = x.shape
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
    out_h, out_w = (height - (kh - 1) * dh - 1) // sh + 1, (width - (kw - 1) * dw - 1) // sw + 1
    steps = x.stride()
    strides = (steps[0], steps[1], steps[2] * sh, steps[3] * sw, steps[2] * dh, steps[3] * dw)
    return x.as_strided((n, c, out_h, out_w, kh, kw), strides, x.storage_offset())
