"""Windows of images and their inverses, and grids, written as gathers, reshapes and products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_MOST_PLACES = 64  # of a kernel whose windows overlap: a Gather, a Pad and an Add for each


def _pair(one: Any) -> tuple[int, int]:
    return (one, one) if isinstance(one, int) else (one[0], one[-1])


def _unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """Gathers the rows of all windows, then the columns: [N, C * kh * kw, number of windows]."""
    if input.dim() == 3:
        found = _unfold(input.unsqueeze(0), kernel_size, dilation, padding, stride)
        return found if found is NotImplemented else found.squeeze(0)
    kernel, gaps, margin, step = (_pair(one) for one in (kernel_size, dilation, padding, stride))
    x = F.pad(input, (margin[1], margin[1], margin[0], margin[0])) if any(margin) else input
    if not all(isinstance(size, int) for size in x.shape[1:]):
        return NotImplemented
    channels, counts = int(x.shape[1]), []
    for axis in (0, 1):
        count = (int(x.shape[2 + axis]) - gaps[axis] * (kernel[axis] - 1) - 1) // step[axis] + 1
        places = torch.arange(kernel[axis]).unsqueeze(1) * gaps[axis] + torch.arange(count) * step[axis]
        x = x.index_select(2 + axis, places.flatten().to(x.device))
        counts.append(count)
    x = x.reshape(-1, channels, kernel[0], counts[0], kernel[1], counts[1])
    return x.permute(0, 1, 2, 4, 3, 5).reshape(-1, channels * kernel[0] * kernel[1], counts[0] * counts[1])


def _fold(
    input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Any:
    """Adds up windows, each moved to its place; windows side by side are only moved.

    No transposed convolution or product with a constant: such a node would have to be a quantized layer.
    """
    if input.dim() == 2:
        found = _fold(input.unsqueeze(0), output_size, kernel_size, dilation, padding, stride)
        return found if found is NotImplemented else found.squeeze(0)
    size, kernel = _pair(output_size), _pair(kernel_size)
    gaps, margin, step = (_pair(one) for one in (dilation, padding, stride))
    area = kernel[0] * kernel[1]
    if not all(isinstance(one, int) for one in (*size, input.shape[1])) or area > _MOST_PLACES:
        return NotImplemented
    spans = [gaps[axis] * (kernel[axis] - 1) + 1 for axis in (0, 1)]
    counts = [(size[axis] + 2 * margin[axis] - spans[axis]) // step[axis] + 1 for axis in (0, 1)]
    x = input.reshape(-1, int(input.shape[1]) // area, kernel[0], kernel[1], counts[0], counts[1])
    if step == kernel and gaps == (1, 1) and margin == (0, 0) and size == (counts[0] * step[0], counts[1] * step[1]):
        return x.permute(0, 1, 4, 2, 5, 3).reshape(-1, int(x.shape[1]), *size)
    found = None
    for place in range(area):
        row, column = divmod(place, kernel[1])
        part = _spread(_spread(x[:, :, row, column], -1, step[1]), -2, step[0])
        top, left = row * gaps[0] - margin[0], column * gaps[1] - margin[1]
        part = F.pad(part, (left, size[1] - left - int(part.shape[-1]), top, size[0] - top - int(part.shape[-2])))
        found = part if found is None else found + part
    return found


def _spread(x: Tensor, axis: int, step: int) -> Tensor:
    """Returns ``x`` with ``step - 1`` zeros between the elements along ``axis``, -1 or -2."""
    if step == 1:
        return x
    count = int(x.shape[axis])
    wide = F.pad(x.unsqueeze(-1), (0, step - 1)) if axis == -1 else F.pad(x.unsqueeze(-2), (0, 0, 0, step - 1))
    shape = list(x.shape)
    shape[axis] = count * step
    return wide.reshape(shape).narrow(axis, 0, (count - 1) * step + 1)


def _affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Any:
    """Multiplies the coordinates of all pixels, which are constants, by the matrices ``theta``."""
    if len(size) != 4 or not all(isinstance(one, int) for one in size[2:]):
        return NotImplemented
    lines = []
    for count in (size[3], size[2]):
        line = torch.linspace(-1, 1, count, dtype=theta.dtype) if count > 1 else torch.zeros(count, dtype=theta.dtype)
        lines.append(line if align_corners else line * (count - 1) / count)
    height, width = size[2], size[3]
    across, down = lines[0].expand(height, width), lines[1].unsqueeze(1).expand(height, width)
    base = torch.stack([across, down, torch.ones(height, width, dtype=theta.dtype)], -1).reshape(-1, 3)
    return torch.matmul(base.to(theta.device), theta.transpose(1, 2)).reshape(-1, height, width, 2)


def _max_unpool2d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Any:
    """Scatters the elements into zeros."""
    kernel, margin = _pair(kernel_size), _pair(padding)
    step = _pair(stride) if stride else kernel
    sizes = input.shape[-2:]
    if not all(isinstance(one, int) for one in input.shape):
        return NotImplemented
    wanted = [(sizes[axis] - 1) * step[axis] - 2 * margin[axis] + kernel[axis] for axis in (0, 1)]
    wanted = wanted if output_size is None else [int(one) for one in output_size[-2:]]
    flat = torch.zeros(*input.shape[:-2], wanted[0] * wanted[1], dtype=input.dtype, device=input.device)
    return flat.scatter(-1, indices.flatten(-2), input.flatten(-2)).reshape(*input.shape[:-2], *wanted)


WINDOW_FORMS: Mapping[str, Callable[..., Any]] = {
    "F.unfold": _unfold,
    "F.im2col": _unfold,
    "F.fold": _fold,
    "F.affine_grid": _affine_grid,
    "F.max_unpool2d": _max_unpool2d,
}
