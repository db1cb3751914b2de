"""Indexing: slices, numbers and tensors in brackets, and functions that pick elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ...calls.no_ops import cuts
from ..call import Call
from ..table import REFUSED, Written, handles
from .movement import sliced

_SORTED = (torch.float32, torch.float64, torch.int64, torch.int32)  # types of onnxruntime's TopK
_LAST = np.iinfo(np.int64).max


@handles("__getitem__")
def getitem(call: Call, input: Tensor, index: Any) -> Written:
    """Writes Slice for all slices, Gather for each number or tensor of indices, Unsqueeze for None."""
    given = [torch.tensor(one) if isinstance(one, list) else _with_numbers(call, one) for one in _parts(index)]
    if not all(map(_is_known, given)):
        return REFUSED
    places = _with_axes(given, input.dim())
    tensors = [one for one in places if isinstance(one, Tensor)]
    x = _slices(call, input, places)
    axis, added = 0, []
    for one in places:
        if one is None:
            added.append(axis)
        elif isinstance(one, (int, torch.SymInt)):
            x = call.op("Gather", x, call.scalar_int(one), axis=axis - len(added))
            continue
        elif isinstance(one, Tensor) and len(tensors) == 1:
            x = call.op("Gather", x, call.value(one, torch.int64), axis=axis - len(added))
            axis += one.dim() - 1
        axis += 1
    x = call.op("Unsqueeze", x, call.ints(added)) if added else x
    if len(tensors) < 2:
        return x
    kept = [one for one in places if not isinstance(one, (int, torch.SymInt))]
    return _picked(call, x, kept, tensors)


def _parts(index: Any) -> tuple[Any, ...]:
    """Returns an index for each axis; torch takes a list that holds more than numbers for a tuple."""
    if isinstance(index, list) and any(not isinstance(one, (int, torch.SymInt)) for one in index):
        return tuple(index)
    return index if isinstance(index, tuple) else (index,)


def _with_numbers(call: Call, one: Any) -> Any:
    """Returns a slice with numbers in place of constant tensors; anything else unchanged."""
    if not isinstance(one, slice):
        return one
    ends = (one.start, one.stop, one.step)
    return slice(*(int(end) if isinstance(end, Tensor) and call.is_constant(end) else end for end in ends))


def _picked(call: Call, x: ir.Value, places: list[Any], tensors: list[Tensor]) -> ir.Value:
    """Writes GatherND, which picks by several tensors of indices; ``places`` has an element for each axis of ``x``."""
    axes = [axis for axis, one in enumerate(places) if isinstance(one, Tensor)]
    others = [axis for axis in range(len(places)) if axis not in axes]
    order = [*axes, *others]
    if order != list(range(len(order))):
        x = call.op("Transpose", x, perm=order)
    x = call.op("GatherND", x, common_index(call, tensors))
    if axes[-1] - axes[0] >= len(axes):  # apart: the axes of the indices stay in front, as in torch
        return x
    count = max(one.dim() for one in tensors)
    before = axes[0]
    perm = [*range(count, count + before), *range(count), *range(count + before, count + len(others))]
    return x if perm == list(range(len(perm))) else call.op("Transpose", x, perm=perm)


def common_index(call: Call, tensors: Sequence[Tensor]) -> ir.Value:
    """Returns ``tensors`` of places as the indices of GatherND and ScatterND, [..., number of tensors]."""
    shape = torch.broadcast_shapes(*(one.shape for one in tensors))  # type: ignore[no-untyped-call]
    if all(map(call.is_constant, tensors)):
        return call.constant(torch.stack([one.to(torch.int64).expand(shape) for one in tensors], -1))
    if not shape:
        parts = [call.op("Unsqueeze", call.value(one, torch.int64), call.ints([0])) for one in tensors]
        return call.op("Concat", *parts, axis=0)
    sizes = call.ints(shape)
    spread = [call.op("Expand", call.value(one, torch.int64), sizes) for one in tensors]
    return call.op("Concat", *(call.op("Unsqueeze", one, call.ints([-1])) for one in spread), axis=-1)


def _is_known(one: Any) -> bool:
    if isinstance(one, Tensor):
        return not one.is_floating_point() and one.dtype not in (torch.bool, torch.uint8)
    if isinstance(one, slice):
        return not any(isinstance(end, Tensor) for end in (one.start, one.stop, one.step))
    return one is None or one is Ellipsis or (isinstance(one, (int, torch.SymInt)) and not isinstance(one, bool))


def _with_axes(given: list[Any], rank: int) -> list[Any]:
    """Returns the index with the ellipsis replaced by full slices; without an ellipsis they are added at the end."""
    taken = sum(one is not None and one is not Ellipsis for one in given)
    rest = [slice(None)] * (rank - taken)
    at = next((place for place, one in enumerate(given) if one is Ellipsis), len(given))
    return [*given[:at], *rest, *given[at + 1 :]]


def _slices(call: Call, input: Tensor, places: list[Any]) -> ir.Value:
    axes = enumerate(one for one in places if one is not None)
    cut = [(axis, one) for axis, one in axes if isinstance(one, slice) and cuts(one)]
    if not cut:
        return call.value(input)
    starts = [0 if one.start is None else one.start for _, one in cut]
    ends = [_LAST if one.stop is None else one.stop for _, one in cut]
    steps = [1 if one.step is None else one.step for _, one in cut]
    return sliced(
        call,
        call.value(input),
        starts,
        ends,
        [axis for axis, _ in cut],
        steps if any(one != 1 for one in steps) else None,
    )


@handles("gather")
def gather(call: Call, input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Written:
    """Writes GatherElements."""
    return call.op("GatherElements", call.value(input), call.value(index), axis=dim) if input.dim() else REFUSED


@handles("unfold")
def unfold(call: Call, input: Tensor, dimension: int, size: int, step: int) -> Written:
    """Writes Gather of the windows, whose axis becomes the last one; torch's exporter is wrong for negative axes."""
    if not input.dim() or not all(type(one) is int for one in (input.shape[dimension], size, step)):
        return REFUSED
    axis, count = dimension % input.dim(), (input.shape[dimension] - size) // step + 1
    places = torch.arange(count)[:, None] * step + torch.arange(size)
    windows = call.op("Gather", call.value(input), call.writer.constant(places.numpy()), axis=axis)
    others = [one for one in range(input.dim() + 1) if one != axis + 1]
    return call.op("Transpose", windows, perm=[*others, axis + 1])


@handles("F.one_hot")
def one_hot(call: Call, tensor: Tensor, num_classes: int = -1) -> Written:
    """Writes OneHot; without ``num_classes`` their number would depend on the data."""
    if not isinstance(num_classes, int) or num_classes < 1:
        return REFUSED
    values = call.array(np.array([0, 1], dtype=np.int64))
    return call.op("OneHot", call.value(tensor), call.scalar_int(num_classes), values, axis=-1)


@handles("index_select")
def index_select(call: Call, input: Tensor, dim: int, index: Tensor) -> Written:
    """Writes Gather."""
    return call.op("Gather", call.value(input), call.value(index), axis=dim) if index.dim() == 1 else REFUSED


@handles("F.embedding")
def embedding(
    call: Call,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Written:
    """Writes Gather; with ``max_norm`` torch scales the rows that a call reads, and the file has all rows scaled."""
    rows = weight if max_norm is None else torch.renorm(weight.detach(), norm_type, 0, max_norm)
    return call.op("Gather", call.value(rows), call.value(input))


@handles("topk")
def topk(
    call: Call, input: Tensor, k: int | torch.SymInt, dim: int = -1, largest: bool = True, sorted: bool = True
) -> Written:
    """Writes TopK."""
    if not input.dim():
        return [call.value(input), call.scalar_int(0)] if k else REFUSED
    return call.ops(
        "TopK", call.value(input), call.ints([k]), outputs=2, axis=dim, largest=int(largest), sorted=int(sorted)
    )


@handles("sort", "argsort")
def sort(call: Call, input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool | None = None) -> Written:
    """Writes TopK of all elements; of equal elements it returns the first ones first, as a stable sort does."""
    if not isinstance(dim, int) or isinstance(dim, bool):  # the overloads that begin with ``stable``
        return REFUSED
    if input.dtype not in _SORTED or not input.dim():
        return REFUSED
    both = call.ops(
        "TopK", call.value(input), call.ints([input.shape[dim]]), outputs=2, axis=dim, largest=int(descending), sorted=1
    )
    return both if call.function.__name__ == "sort" else both[1]


@handles("repeat_interleave")
def repeat_interleave(
    call: Call, input: Tensor, repeats: Tensor, dim: int | None = None, *, output_size: int | None = None
) -> Written:
    """Writes Gather for a constant tensor of counts; one count has a composed form."""
    if not isinstance(repeats, Tensor) or not call.is_constant(repeats) or dim is None or not input.dim():
        return REFUSED
    size = input.shape[dim]
    if not isinstance(size, int):
        return REFUSED
    places = torch.arange(size).repeat_interleave(repeats.cpu())
    return call.op("Gather", call.value(input), call.constant(places), axis=dim)


@handles("tril", "triu")
def triangle(call: Call, input: Tensor, diagonal: int = 0) -> Written:
    """Writes Trilu."""
    call.need_opset(14, "Trilu")
    is_upper = int(call.function.__name__.startswith("triu"))
    return call.op("Trilu", call.value(input), call.scalar_int(diagonal), upper=is_upper)
