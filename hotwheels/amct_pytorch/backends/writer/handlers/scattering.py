"""Writing into a copy of a tensor at places that tensors of indices name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from ..call import Call, Scalar
from ..table import REFUSED, Written, handles
from .indexing import common_index
from .movement import sliced

_REDUCTIONS = {"add": "add", "sum": "add", "multiply": "mul", "prod": "mul", "amax": "max", "amin": "min"}
# The element that a reduction leaves unchanged.
_NEUTRAL = {"sum": 0.0, "mean": 0.0, "prod": 1.0, "amax": -math.inf, "amin": math.inf}


def _need_reduction(call: Call, reduction: str, node: str = "ScatterElements") -> None:
    call.need_opset(18 if reduction in ("max", "min") else 16, f"{node} with reduction '{reduction}'")


def _source(call: Call, src: Tensor, index: Tensor) -> ir.Value | None:
    """Returns the part of ``src`` that ``index`` reads: its first elements; None for sizes that are not numbers."""
    if src.shape == index.shape:
        return call.value(src)
    if not all(isinstance(size, int) for size in (*src.shape, *index.shape)):
        return None
    if call.is_constant(src):
        return call.constant(src[tuple(slice(size) for size in index.shape)])
    axes = [axis for axis, size in enumerate(index.shape) if size != src.shape[axis]]
    return sliced(call, call.value(src), [0] * len(axes), [index.shape[axis] for axis in axes], axes)


@handles("scatter")
def scatter(
    call: Call,
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Tensor | Scalar | None = None,
    *,
    value: Scalar | None = None,
    reduce: str | None = None,
) -> Written:
    """Writes ScatterElements."""
    given = value if src is None else src
    reduction = None if reduce is None else _REDUCTIONS.get(reduce)
    if not input.dim() or given is None or (reduce is not None and reduction is None):
        return REFUSED
    if reduction is not None:
        _need_reduction(call, reduction)
    if isinstance(given, Tensor):
        written = _source(call, given, index)
        if written is None or given.dtype != input.dtype:
            return REFUSED
    else:
        written = call.op("Expand", call.number(given, input.dtype), call.ints(index.shape))
    return call.op("ScatterElements", call.value(input), call.value(index), written, axis=dim, reduction=reduction)


@handles("scatter_add")
def scatter_add(call: Call, input: Tensor, dim: int, index: Tensor, src: Tensor) -> Written:
    """Writes ScatterElements, which sums equal places from opset 16 on."""
    return scatter(call, input, dim, index, src, reduce="add")


@handles("scatter_reduce")
def scatter_reduce(
    call: Call, input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Written:
    """Writes ScatterElements; without ``include_self`` a first one puts the neutral element at the places."""
    if not input.dim() or reduce not in _NEUTRAL or not input.is_floating_point() or src.dtype != input.dtype:
        return REFUSED
    written = _source(call, src, index)
    if written is None:
        return REFUSED
    reduction = _REDUCTIONS.get(reduce, "add")
    _need_reduction(call, reduction)
    places, x = call.value(index), call.value(input)
    sizes = call.ints(index.shape)
    if not include_self:
        neutral = call.op("Expand", call.number(_NEUTRAL[reduce], input.dtype), sizes)
        x = call.op("ScatterElements", x, places, neutral, axis=dim)
    found = call.op("ScatterElements", x, places, written, axis=dim, reduction=reduction)
    if reduce != "mean":
        return found
    ones = call.op("Expand", call.number(1, input.dtype), call.ints(input.shape))
    added = call.op("Expand", call.number(1, input.dtype), sizes)
    if not include_self:
        zeros = call.op("Expand", call.number(0, input.dtype), sizes)
        ones = call.op("ScatterElements", ones, places, zeros, axis=dim)
    return call.op("Div", found, call.op("ScatterElements", ones, places, added, axis=dim, reduction="add"))


@handles("index_add")
def index_add(call: Call, input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Scalar = 1) -> Written:
    """Writes ScatterElements, which sums equal places from opset 16 on."""
    if not input.dim() or not source.dim() or index.dim() != 1:
        return REFUSED
    _need_reduction(call, "add")
    added = call.value(source)
    if alpha != 1:
        added = call.op("Mul", added, call.number(alpha, source.dtype))
    places = _lines(call, index, source.shape, dim)
    return call.op("ScatterElements", call.value(input), places, added, axis=dim, reduction="add")


@handles("index_copy")
def index_copy(call: Call, input: Tensor, dim: int, index: Tensor, source: Tensor) -> Written:
    """Writes ScatterElements."""
    if not input.dim() or not source.dim() or index.dim() != 1:
        return REFUSED
    places = _lines(call, index, source.shape, dim)
    return call.op("ScatterElements", call.value(input), places, call.value(source), axis=dim)


@handles("index_fill")
def index_fill(call: Call, input: Tensor, dim: int, index: Tensor, value: Tensor | Scalar) -> Written:
    """Writes ScatterElements of one value."""
    if not input.dim() or index.dim() != 1 or (isinstance(value, Tensor) and value.dim()):
        return REFUSED
    shape = list(input.shape)
    shape[dim] = index.shape[0]
    filling = call.op("Expand", call.value(value, input.dtype), call.ints(shape))
    return call.op("ScatterElements", call.value(input), _lines(call, index, shape, dim), filling, axis=dim)


def _lines(call: Call, index: Tensor, shape: Sequence[int], dim: int) -> ir.Value:
    """Returns the numbers of slices along ``dim`` as a tensor of ``shape``."""
    line = [1] * len(shape)
    line[dim] = -1
    places = call.op("Reshape", call.value(index, torch.int64), call.ints(line))
    return call.op("Expand", places, call.ints(shape))


@handles("index_put")
def index_put(
    call: Call, input: Tensor, indices: Sequence[Tensor], values: Tensor, accumulate: bool = False
) -> Written:
    """Writes ScatterND for indices of the first axes; it sums equal places from opset 16 on."""
    are_places = all(isinstance(one, Tensor) and one.dtype in (torch.int64, torch.int32) for one in indices)
    if not are_places or values.dtype != input.dtype:
        return REFUSED
    if accumulate:
        _need_reduction(call, "add", "ScatterND")
    shape = list(torch.broadcast_shapes(*(one.shape for one in indices)))  # type: ignore[no-untyped-call]
    written = call.op("Expand", call.value(values), call.ints([*shape, *input.shape[len(indices) :]]))
    return call.op(
        "ScatterND", call.value(input), common_index(call, indices), written, reduction="add" if accumulate else None
    )
