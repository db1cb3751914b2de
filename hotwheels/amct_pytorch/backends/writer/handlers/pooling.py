"""Poolings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from torch import Tensor

from ....errors import ExportError
from ...calls.function_names import name_of
from ...calls.pooling_windows import even_windows, window_shares
from ..call import Call
from ..table import REFUSED, Written, handles
from .convolution import batched, each, with_margins
from .shape import Size

_IMAGES = ("2d", "3d")  # 1-D functions are written as images (`nn.unit_axis`)


@handles(
    *(f"F.max_pool{n}" for n in _IMAGES),
    *(f"F.max_pool{n}_with_indices" for n in _IMAGES),
    *(f"max_pool{n}" for n in _IMAGES),
)
def max_pool(
    call: Call,
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Written:
    """Writes MaxPool; converts its indices, which count through the whole tensor, to torch's, which count per image."""
    rank = _rank(call)
    kernel = each(kernel_size, rank)
    strides = each(stride, rank) if stride else kernel
    maxima = call.result if isinstance(call.result, Tensor) else call.result[0]
    ceils = ceil_mode and not _is_floored(input, maxima, kernel, strides, each(padding, rank), each(dilation, rank))
    attributes: dict[str, Any] = {
        "ceil_mode": int(ceils),
        "dilations": each(dilation, rank),
        "kernel_shape": kernel,
        "pads": each(padding, rank) * 2,
        "strides": strides,
    }
    if isinstance(call.result, Tensor):
        return batched(call, input, rank + 2, lambda x: call.op("MaxPool", x, **attributes))
    if input.dim() != rank + 2:
        return REFUSED
    values, places = call.ops("MaxPool", call.value(input), outputs=2, **attributes)
    image = math.prod(input.shape[2:])
    return [values, call.op("Mod", places, call.scalar_int(image))]


@handles("padded_max_pool2d")
def padded_max_pool(
    call: Call,
    input: Tensor,
    margins: Sequence[int],
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
) -> Written:
    """Writes MaxPool whose ``pads`` are margins and padding; no input value is below the zeros of the margins."""
    return _padded(call, "MaxPool", input, margins, kernel_size, stride, padding, dilations=each(dilation, 2))


@handles("padded_avg_pool2d")
def padded_avg_pool(
    call: Call,
    input: Tensor,
    margins: Sequence[int],
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
) -> Written:
    """Writes AveragePool whose ``pads`` are the margins and the padding; they count as elements."""
    return _padded(call, "AveragePool", input, margins, kernel_size, stride, padding, count_include_pad=1)


@handles(*(f"F.avg_pool{n}" for n in _IMAGES))
def avg_pool(
    call: Call,
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Written:
    """Writes AveragePool; with another divisor also Mul by elements / divisor."""
    rank = _rank(call)
    kernel = each(kernel_size, rank)
    if divisor_override is not None and call.layer is not None:
        msg = (
            f"Layer '{call.layer}': ONNX's AveragePool has no divisor_override ({divisor_override}), so the layer"
            " cannot be quantized. Leave divisor_override out and multiply the result, or set quant_enable to false."
        )
        raise ExportError(msg)
    pads, strides = each(padding, rank), each(stride, rank) if stride else kernel
    ceils = ceil_mode and not _is_floored(input, call.result, kernel, strides, pads, [1] * rank)
    ends = pads
    if divisor_override is not None and ceils:  # zeros complete the last windows, so all have the same divisor
        lengths = zip(input.shape[-rank:], call.result.shape[-rank:], kernel, strides, pads, strict=True)
        known = [
            (count - 1) * step + size - before - pad if isinstance(before, int) and isinstance(count, int) else None
            for before, count, size, step, pad in lengths
        ]
        if None in known:
            return REFUSED
        ends, ceils = [max(one, pad) for one, pad in zip(known, pads, strict=True) if one is not None], False

    def write(x: ir.Value) -> ir.Value:
        if ends != pads:
            x = call.op("Pad", x, call.ints([0, 0, *pads, 0, 0, *ends]))
        mean = call.op(
            "AveragePool",
            x,
            ceil_mode=int(ceils),
            count_include_pad=int(count_include_pad or divisor_override is not None),
            kernel_shape=kernel,
            pads=[0] * (2 * rank) if ends != pads else pads * 2,
            strides=strides,
        )
        if divisor_override is None:
            return mean
        return call.op("Mul", mean, call.number(math.prod(kernel) / divisor_override, input.dtype))

    return batched(call, input, rank + 2, write)


@handles(*(f"F.adaptive_avg_pool{n}" for n in _IMAGES))
def adaptive_avg_pool(call: Call, input: Tensor, output_size: Size | Sequence[Size | None]) -> Written:
    """Writes GlobalAveragePool, or AveragePool if all windows have the same size and distance."""
    return adaptive_avg_pool_of(call, input, _rank(call))


def adaptive_avg_pool_of(call: Call, input: Tensor, rank: int) -> Written:
    """Writes the mean of images with ``rank`` axes over the windows that give the shape of the result."""
    if all(isinstance(one, int) and one == 1 for one in call.result.shape[-rank:]):
        return batched(call, input, rank + 2, lambda x: call.op("GlobalAveragePool", x))
    windows = even_windows(input.shape[-rank:], call.result.shape[-rank:])
    if windows is None and call.layer is not None:
        before, after = list(input.shape[-rank:]), list(call.result.shape[-rank:])
        msg = (
            f"Layer '{call.layer}': from {before} to {after} elements its windows have several sizes, which ONNX's"
            " AveragePool does not have, so it cannot be quantized. Set its quant_enable to false (it is then products"
            " with constant matrices), or choose sizes that divide those of the input."
        )
        raise ExportError(msg)
    if windows is None:
        return _by_shares(call, input) if rank == 2 else REFUSED
    kernel, strides = windows
    return batched(call, input, rank + 2, lambda x: call.op("AveragePool", x, kernel_shape=kernel, strides=strides))


def _by_shares(call: Call, input: Tensor) -> Written:
    """Writes windows of several sizes as products with constant matrices, which hold the share of each element."""
    sizes = (*input.shape[-2:], *call.result.shape[-2:])
    if not all(isinstance(one, int) for one in sizes):
        return REFUSED
    rows, columns = (window_shares(input.shape[axis], call.result.shape[axis], input.dtype) for axis in (-2, -1))
    return call.op("MatMul", call.constant(rows), call.op("MatMul", call.value(input), call.constant(columns.T)))


@handles(
    *(f"F.adaptive_max_pool{n}" for n in _IMAGES),
    *(f"F.adaptive_max_pool{n}_with_indices" for n in _IMAGES),
)
def adaptive_max_pool(
    call: Call, input: Tensor, output_size: Size | Sequence[Size | None], return_indices: bool = False
) -> Written:
    """Writes MaxPool if all windows have the same size and distance."""
    rank = _rank(call)
    maxima = call.result if isinstance(call.result, Tensor) else call.result[0]
    windows = even_windows(input.shape[-rank:], maxima.shape[-rank:])
    if windows is None or input.dim() != rank + 2:
        is_global = all(isinstance(one, int) and one == 1 for one in maxima.shape[-rank:])
        return call.op("GlobalMaxPool", call.value(input)) if is_global and isinstance(call.result, Tensor) else REFUSED
    kernel, strides = windows
    pads = [0] * (2 * rank)
    if isinstance(call.result, Tensor):
        return call.op("MaxPool", call.value(input), kernel_shape=kernel, pads=pads, strides=strides)
    values, places = call.ops("MaxPool", call.value(input), outputs=2, kernel_shape=kernel, pads=pads, strides=strides)
    return [values, call.op("Mod", places, call.scalar_int(math.prod(input.shape[2:])))]


def _padded(
    call: Call,
    operation: str,
    input: Tensor,
    margins: Sequence[int],
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    **attributes: Any,
) -> Written:
    """Writes a pooling of images whose ``pads`` are margins and padding."""
    attributes |= {
        "kernel_shape": each(kernel_size, 2),
        "pads": with_margins(each(padding, 2) * 2, margins),
        "strides": each(stride, 2),
    }
    return batched(call, input, 4, lambda x: call.op(operation, x, **attributes))


def _is_floored(
    input: Tensor,
    result: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> bool:
    """Whether rounding up gives the sizes of rounding down, as torch drops a window that would start behind the image.

    ONNX keeps such a window in its shapes. Sizes that depend on the inputs are taken as rounded up.
    """
    rank = len(kernel)
    floors = [
        (size + 2 * pad - step_inside * (extent - 1) - 1) // stride + 1
        for size, extent, stride, pad, step_inside in zip(
            input.shape[-rank:], kernel, strides, pads, dilations, strict=True
        )
    ]
    return all(isinstance(one, int) for one in result.shape[-rank:]) and floors == list(result.shape[-rank:])


def _rank(call: Call) -> int:
    """Returns the number of axes of an image, from the name of the function."""
    return int(name_of(call.function).partition("pool")[2][0])
