"""Operations that move elements: permutations, joining and cutting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ..call import Call
from ..table import REFUSED, Written, handles
from .shape import Size, reshaped

_LAST = np.iinfo(np.int64).max  # as end of a Slice: up to the last element


# --- permutations ---


@handles("permute")
def permute(call: Call, input: Tensor, *dims: Any, **kwargs: Any) -> Written:
    """Writes Transpose."""
    given = kwargs.get("dims", dims)
    axes = given[0] if len(given) == 1 and not isinstance(given[0], int) else given
    return transposed(call, input, [axis % input.dim() for axis in axes])


@handles("transpose", "swapaxes", "swapdims")
def transpose(call: Call, input: Tensor, *dims: int, **kwargs: int) -> Written:
    """Writes Transpose."""
    first, second = (*dims, *kwargs.values())
    return _exchanged(call, input, first, second)


@handles("t", "T", "mT", "adjoint", "H", "mH")
def transpose_last(call: Call, input: Tensor) -> Written:
    """Writes Transpose of the last two axes."""
    if input.dim() < 2 or input.is_complex() or (input.dim() > 2 and call.result.shape[:-2] != input.shape[:-2]):
        return REFUSED
    return _exchanged(call, input, -1, -2)


def _exchanged(call: Call, input: Tensor, first: int, second: int) -> Written:
    axes = list(range(input.dim()))
    if axes:
        axes[first], axes[second] = axes[second], axes[first]
    return transposed(call, input, axes)


@handles("movedim", "moveaxis")
def movedim(call: Call, input: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Written:
    """Writes Transpose."""
    rank = input.dim()
    sources = [axis % rank for axis in ([source] if isinstance(source, int) else source)]
    targets = [axis % rank for axis in ([destination] if isinstance(destination, int) else destination)]
    others = iter(axis for axis in range(rank) if axis not in sources)
    by_target = dict(zip(targets, sources, strict=True))
    return transposed(call, input, [by_target[axis] if axis in by_target else next(others) for axis in range(rank)])


def transposed(call: Call, input: Tensor, axes: Sequence[int]) -> ir.Value:
    """Writes Transpose; nothing if no axis moves."""
    x = call.value(input)
    return x if list(axes) == list(range(input.dim())) else call.op("Transpose", x, perm=list(axes))


# --- joining ---


@handles("cat", "concat", "concatenate")
def cat(call: Call, tensors: Sequence[Tensor], dim: int = 0, *, axis: int | None = None) -> Written:
    """Writes Concat; torch leaves empty vectors out."""
    joined = [one for one in tensors if tuple(one.shape) != (0,)] or [tensors[0]]
    values = [call.value(one, call.result.dtype) for one in joined]
    return values[0] if len(values) == 1 else call.op("Concat", *values, axis=dim if axis is None else axis)


@handles("stack")
def stack(call: Call, tensors: Sequence[Tensor], dim: int = 0) -> Written:
    """Writes Unsqueeze of each and Concat."""
    axis = dim % call.result.dim()
    parts = [call.op("Unsqueeze", call.value(one, call.result.dtype), call.ints([axis])) for one in tensors]
    return parts[0] if len(parts) == 1 else call.op("Concat", *parts, axis=axis)


@handles("hstack")
def stack_side_by_side(call: Call, tensors: Sequence[Tensor]) -> Written:
    """Writes Concat of tensors that have the axis already."""
    if len({one.dim() == 1 for one in tensors}) > 1 or any(not one.dim() for one in tensors):
        return REFUSED
    values = [call.value(one, call.result.dtype) for one in tensors]
    return call.op("Concat", *values, axis=1 if tensors[0].dim() > 1 else 0)


# --- cutting ---


@handles(
    *("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split", "hsplit", "vsplit"),
    "dsplit",
)
def split(call: Call, input: Tensor, *args: Any, **kwargs: Any) -> Written:
    """Writes Split into the sizes of the results."""
    axis = _split_axis(input, call.result)
    x = call.value(input)
    if axis is None:
        return REFUSED if len(call.result) > 1 else [x]
    sizes = [part.shape[axis] for part in call.result]
    if len(sizes) == 1:
        return [x]
    return call.ops("Split", x, call.ints(sizes), outputs=len(sizes), axis=axis)


def _split_axis(input: Tensor, parts: Sequence[Tensor]) -> int | None:
    """Returns the axis along which ``parts`` are smaller than ``input``; None if no axis is."""
    for axis, size in enumerate(input.shape):
        if any(isinstance(one.shape[axis], int) and isinstance(size, int) and one.shape[axis] != size for one in parts):
            return axis
    return None


@handles("unbind")
def unbind(call: Call, input: Tensor, dim: int = 0) -> Written:
    """Writes Split and Squeeze of each part."""
    x, count = call.value(input), len(call.result)
    axis = dim % input.dim()
    parts = [x] if count == 1 else call.ops("Split", x, call.ints([1] * count), outputs=count, axis=axis)
    return [call.op("Squeeze", part, call.ints([axis])) for part in parts]


@handles("select")
def select(call: Call, input: Tensor, dim: int, index: Size) -> Written:
    """Writes Gather."""
    return call.op("Gather", call.value(input), call.scalar_int(index), axis=dim % input.dim())


@handles("narrow")
def narrow(call: Call, input: Tensor, dim: int, start: Size, length: Size) -> Written:
    """Writes Slice."""
    if isinstance(start, Tensor):
        return REFUSED
    if isinstance(start, int) and start < 0:
        start = start + input.shape[dim]
    return sliced(call, call.value(input), [start], [start + length], [dim % input.dim()])


def sliced(
    call: Call,
    x: ir.Value,
    starts: Sequence[Size],
    ends: Sequence[Size],
    axes: Sequence[int],
    steps: Sequence[int] | None = None,
) -> ir.Value:
    """Writes Slice."""
    given = [call.ints(one) for one in (starts, ends, axes)]
    return call.op("Slice", x, *given, None if steps is None else call.ints(steps))


@handles("flip", "fliplr", "flipud")
def flip(call: Call, input: Tensor, *dims: Any, **kwargs: Any) -> Written:
    """Writes Slice backwards."""
    fixed = {"fliplr": [1], "flipud": [0]}.get(call.function.__name__)
    given = fixed or kwargs.get("dims", dims)
    axes = given[0] if len(given) == 1 and not isinstance(given[0], int) else given
    axes = [axis % input.dim() for axis in axes]
    if not axes:
        return call.value(input)
    count = len(axes)
    return sliced(call, call.value(input), [-1] * count, [-_LAST] * count, axes, [-1] * count)


@handles("roll")
def roll(call: Call, input: Tensor, shifts: Any, dims: Any = None) -> Written:
    """Writes two Slices and Concat for each axis; without axes those of all elements in a row."""
    shifts = [shifts] if isinstance(shifts, (int, torch.SymInt)) else list(shifts)
    dims = [dims] if isinstance(dims, int) else list(dims or ())
    sizes = [input.shape[axis] for axis in dims or range(input.dim())]
    x = call.value(input)
    if dims and not any(isinstance(one, int) for one in shifts):  # shifts that depend on sizes, such as half of one
        for shift, axis in zip(shifts, dims, strict=True):
            x = _cut_and_joined(call, x, -shift, axis % input.dim())
        return x
    is_static = all(isinstance(one, int) for one in sizes)
    if not all(isinstance(one, int) for one in shifts) or not (is_static or dims) or 0 in sizes:
        return REFUSED
    if not dims:
        row = [input.numel()]
        return reshaped(call, _turned(call, reshaped(call, x, sizes, row), shifts[0], 0, row[0]), row, sizes)
    for shift, axis, size in zip(shifts, dims, sizes, strict=True):
        x = _turned(call, x, shift, axis % input.dim(), size)
    return x


def _turned(call: Call, x: ir.Value, shift: int, axis: int, size: Size) -> ir.Value:
    cut: Size = -shift % size  # type: ignore[operator]  # a SymInt has __rmod__
    if isinstance(cut, int) and not cut:
        return x
    return _cut_and_joined(call, x, cut, axis)


def _cut_and_joined(call: Call, x: ir.Value, cut: Any, axis: int) -> ir.Value:
    return call.op("Concat", sliced(call, x, [cut], [_LAST], [axis]), sliced(call, x, [0], [cut], [axis]), axis=axis)


@handles("diagonal")
def diagonal(call: Call, input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Written:
    """Writes Gather of the diagonal of the two axes laid out as one."""
    rank = input.dim()
    first, second = dim1 % rank, dim2 % rank
    rows, columns = input.shape[first], input.shape[second]
    if not isinstance(rows, int) or not isinstance(columns, int):
        return REFUSED
    others = [axis for axis in range(rank) if axis not in (first, second)]
    x = transposed(call, input, [*others, first, second])
    before = [input.shape[axis] for axis in others]
    flat = reshaped(call, x, [*before, rows, columns], [*before, rows * columns])
    places = np.arange(rows * columns, dtype=np.int64).reshape(rows, columns).diagonal(offset)
    return call.op("Gather", flat, call.array(places.copy()), axis=len(others))


# --- blocks ---


@handles("F.pixel_shuffle")
def pixel_shuffle(call: Call, input: Tensor, upscale_factor: int) -> Written:
    """Writes DepthToSpace."""
    if input.dim() != 4:
        return REFUSED
    return call.op("DepthToSpace", call.value(input), blocksize=upscale_factor, mode="CRD")


@handles("F.pixel_unshuffle")
def pixel_unshuffle(call: Call, input: Tensor, downscale_factor: int) -> Written:
    """Writes Reshape, Transpose, Reshape."""
    if input.dim() != 4:
        return REFUSED
    batch, channels, height, width = input.shape
    factor = downscale_factor
    inner = [batch, channels, height // factor, factor, width // factor, factor]
    return _regrouped(call, input, inner, [0, 1, 3, 5, 2, 4])


@handles("F.channel_shuffle", "F.native_channel_shuffle")
def channel_shuffle(call: Call, input: Tensor, groups: int) -> Written:
    """Writes Reshape, Transpose, Reshape."""
    batch, channels, *image = input.shape
    inner = [batch, groups, channels // groups, *image]
    return _regrouped(call, input, inner, [0, 2, 1, *range(3, len(inner))])


def _regrouped(call: Call, input: Tensor, inner: Sequence[Size], axes: Sequence[int]) -> Written:
    x = reshaped(call, call.value(input), input.shape, inner)
    moved = call.op("Transpose", x, perm=list(axes))
    return reshaped(call, moved, [inner[axis] for axis in axes], call.result.shape)


# --- padding ---


@handles("F.pad", "constant_pad_nd")
def pad(call: Call, input: Tensor, pad: Sequence[Size], mode: str = "constant", value: float | None = None) -> Written:
    """Writes Pad; circular padding as a Concat of slices."""
    if not pad:
        return call.value(input)
    if mode == "circular":
        return _circular(call, input, pad)
    if mode not in _PAD_MODES or isinstance(value, Tensor):
        return REFUSED
    rank, count = input.dim(), len(pad) // 2
    begin: list[Size] = [0] * rank
    end: list[Size] = [0] * rank
    for number in range(count):
        begin[rank - 1 - number], end[rank - 1 - number] = pad[2 * number], pad[2 * number + 1]
    fill = call.number(0 if value is None else value, input.dtype) if mode == "constant" else None
    return call.op("Pad", call.value(input), call.ints([*begin, *end]), fill, mode=_PAD_MODES[mode])


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


def _circular(call: Call, input: Tensor, pad: Sequence[Size]) -> Written:
    if not all(isinstance(one, int) and one >= 0 for one in pad):
        return REFUSED
    x = call.value(input)
    axes = [input.dim() - 1 - number for number in range(len(pad) // 2)]
    for axis, before, after in reversed(list(zip(axes, pad[::2], pad[1::2], strict=True))):
        first = [sliced(call, x, [-before], [_LAST], [axis])] if before else []
        last = [sliced(call, x, [0], [after], [axis])] if after else []
        x = call.op("Concat", *first, x, *last, axis=axis) if first or last else x
    return x
