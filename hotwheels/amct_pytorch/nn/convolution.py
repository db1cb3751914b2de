"""What modules of convolution do with a weight that is given: torch has it in private methods only."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor


def convolve(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns what the Conv2d ``module`` makes of ``x`` with this ``weight`` and ``bias``.

    ``padding="same"`` is given in numbers if both sides have the same: ONNX's auto_pad does not go with dilation.
    """
    left, right, top, bottom = _margins(module)
    if module.padding_mode != "zeros":
        x = F.pad(x, (left, right, top, bottom), mode=module.padding_mode)
        return F.conv2d(x, weight, bias, module.stride, 0, module.dilation, module.groups)
    is_even = left == right and top == bottom
    padding = (top, left) if module.padding == "same" and is_even else module.padding
    return F.conv2d(x, weight, bias, module.stride, padding, module.dilation, module.groups)


def output_padding(module: Any, x: Tensor, output_size: list[int] | None) -> list[int]:
    """Returns the ``output_padding`` with which the ConvTranspose2d ``module`` makes an image of ``output_size``.

    Raises:
      ValueError: No output_padding makes such an image.
    """
    if output_size is None:
        return list(module.output_padding)
    wanted = output_size[-2:]
    if len(output_size) not in (2, x.dim()):
        raise ValueError(f"ConvTranspose2d: output_size must have 2 or {x.dim()} elements, got {len(output_size)}.")
    smallest = [
        (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1
        for size, stride, padding, dilation, kernel in zip(
            x.shape[-2:], module.stride, module.padding, module.dilation, module.kernel_size, strict=True
        )
    ]
    added = [size - least for size, least in zip(wanted, smallest, strict=True)]
    if any(not 0 <= more < stride for more, stride in zip(added, module.stride, strict=True)):
        largest = [least + stride - 1 for least, stride in zip(smallest, module.stride, strict=True)]
        msg = (
            f"ConvTranspose2d: output_size {list(wanted)} is impossible for an image of {list(x.shape[-2:])};"
            f" possible are {smallest} to {largest}."
        )
        raise ValueError(msg)
    return added


def _margins(module: Any) -> tuple[int, int, int, int]:
    """Returns how many pixels are added at the left, right, top and bottom."""
    if module.padding == "valid":
        return 0, 0, 0, 0
    if module.padding != "same":
        (rows, columns) = module.padding
        return columns, columns, rows, rows
    rows, columns = (step * (size - 1) for step, size in zip(module.dilation, module.kernel_size, strict=True))
    return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2
