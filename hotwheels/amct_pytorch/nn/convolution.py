"""Calls of convolution modules with a given weight, which torch offers only as private methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .padding import Margins, padded_conv1d, padded_conv2d

_DIMENSIONS_1D = 3  # of the weight


def convolve(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None, functions: Any = F) -> Tensor:
    """Returns the result of the Conv1d or Conv2d ``module`` on ``x``, with this ``weight`` and ``bias``.

    ``padding="same"`` is replaced by numbers if both sides are padded alike, since ONNX's auto_pad excludes dilation.
    If the module has ``margins``, zeros in front of the layer, these are added first (`padding`). ``functions`` has
    `conv1d` and `conv2d` of torch.nn.functional.
    """
    is_1d = weight.dim() == _DIMENSIONS_1D
    function: Callable[..., Tensor] = functions.conv1d if is_1d else functions.conv2d
    padding = module.padding
    if module.padding_mode != "zeros":
        margins = _margins(module)
        x = F.pad(x, [one for sides in reversed(margins) for one in sides], mode=module.padding_mode)
        return function(x, weight, bias, module.stride, 0, module.dilation, module.groups)
    if padding == "same":
        margins = _margins(module)
        is_even = all(before == behind for before, behind in margins)
        padding = [before for before, _ in margins] if is_even else padding
    settings = (weight, bias, module.stride, padding, module.dilation, module.groups)
    in_front: Margins | None = getattr(module, "margins", None)
    if in_front is None:
        return function(x, *settings)
    if functions is not F:
        return function(F.pad(x, in_front), *settings)
    return (padded_conv1d if is_1d else padded_conv2d)(x, in_front, *settings)


def convolve_transposed(
    module: Any, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: list[int] | None, functions: Any = F
) -> Tensor:
    """Returns the result of the ConvTranspose1d or 2d ``module`` on ``x``, of ``output_size`` if that is given."""
    is_1d = weight.dim() == _DIMENSIONS_1D
    function: Callable[..., Tensor] = functions.conv_transpose1d if is_1d else functions.conv_transpose2d
    padding = output_padding(module, x, output_size)
    return function(x, weight, bias, module.stride, module.padding, padding, module.groups, module.dilation)


def output_padding(module: Any, x: Tensor, output_size: list[int] | None) -> list[int]:
    """Returns the ``output_padding`` for which a transposed convolution returns an image of ``output_size``.

    Raises:
      ValueError: No output_padding makes such an image.
    """
    if output_size is None:
        return list(module.output_padding)
    axes, name = len(module.kernel_size), f"ConvTranspose{len(module.kernel_size)}d"
    wanted = output_size[-axes:]
    if len(output_size) not in (axes, x.dim()):
        raise ValueError(f"{name}: output_size must have {axes} or {x.dim()} elements, got {len(output_size)}.")
    smallest = [
        (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1
        for size, stride, padding, dilation, kernel in zip(
            x.shape[-axes:], module.stride, module.padding, module.dilation, module.kernel_size, strict=True
        )
    ]
    added = [size - least for size, least in zip(wanted, smallest, strict=True)]
    if any(not 0 <= more < stride for more, stride in zip(added, module.stride, strict=True)):
        largest = [least + stride - 1 for least, stride in zip(smallest, module.stride, strict=True)]
        msg = (
            f"{name}: output_size {list(wanted)} is impossible for an image of {list(x.shape[-axes:])};"
            f" possible are {smallest} to {largest}."
        )
        raise ValueError(msg)
    return added


def _margins(module: Any) -> list[tuple[int, int]]:
    """Returns the number of pixels that are added at the begin and end of each axis of an image."""
    if module.padding == "valid":
        return [(0, 0)] * len(module.kernel_size)
    if module.padding != "same":
        return [(one, one) for one in module.padding]
    sums = [step * (size - 1) for step, size in zip(module.dilation, module.kernel_size, strict=True)]
    return [(one // 2, one - one // 2) for one in sums]
