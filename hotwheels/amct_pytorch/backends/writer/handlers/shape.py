"""Operations that change the shape only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from ...calls.same_size import stays
from ..call import Call
from ..table import REFUSED, Written, handles

Size = int | torch.SymInt


@handles("view", "reshape", "view_as", "reshape_as", "unflatten", "ravel")
def reshape(call: Call, input: Tensor, *args: Any, **kwargs: Any) -> Written:
    """Writes Reshape to the shape of the result."""
    if any(isinstance(one, torch.dtype) for one in (*args, *kwargs.values())):
        return REFUSED
    return reshaped(call, call.value(input), input.shape, call.result.shape)


@handles("flatten")
def flatten(call: Call, input: Tensor, start_dim: int = 0, end_dim: int = -1, **kwargs: Any) -> Written:
    """Writes Flatten if two axes remain and the first is kept; else Reshape."""
    rank = input.dim()
    if kwargs:
        return REFUSED
    if rank > 1 and start_dim % rank == 1 and end_dim % rank == rank - 1:
        return call.op("Flatten", call.value(input), axis=1)
    return reshaped(call, call.value(input), input.shape, call.result.shape)


def reshaped(call: Call, x: ir.Value, before: Sequence[Size], after: Sequence[Size]) -> ir.Value:
    """Writes Reshape of ``x``; returns ``x`` itself if the shape does not change.

    For a size that depends on the inputs, Reshape copies the size of the same axis (0) or infers it (-1); the size is
    computed by nodes only if neither is possible.
    """
    if len(before) == len(after) and all(map(stays, before, after)):
        return x
    if any(size == 0 for size in after if isinstance(size, int)):
        return _reshaped_to_nothing(call, x, after)
    sizes: list[Size] = [
        0 if _is_symbolic(size) and axis < len(before) and stays(before[axis], size) else size
        for axis, size in enumerate(after)
    ]
    unknown = [axis for axis, size in enumerate(sizes) if _is_symbolic(size)]
    if unknown:
        sizes[unknown[0]] = -1
    return call.op("Reshape", x, call.ints(sizes))


def _reshaped_to_nothing(call: Call, x: ir.Value, after: Sequence[Size]) -> ir.Value:
    """Writes Reshape with ``allowzero``, since otherwise a size of 0 means the size of the same axis."""
    call.need_opset(14, "Reshape to a size of 0")
    return call.op("Reshape", x, call.ints(after), allowzero=1)


def _is_symbolic(size: Size) -> bool:
    return not isinstance(size, int)


@handles("squeeze")
def squeeze(call: Call, input: Tensor, dim: int | Sequence[int] | None = None) -> Written:
    """Writes Squeeze of the axes that are gone."""
    rank = input.dim()
    if not rank:
        return call.value(input)
    asked = range(rank) if dim is None else [one % rank for one in ((dim,) if isinstance(dim, int) else dim)]
    gone = [axis for axis in asked if isinstance(input.shape[axis], int) and input.shape[axis] == 1]
    if rank - len(gone) != call.result.dim():
        return REFUSED
    return call.op("Squeeze", call.value(input), call.ints(sorted(gone))) if gone else call.value(input)


@handles("unsqueeze")
def unsqueeze(call: Call, input: Tensor, dim: int) -> Written:
    """Writes Unsqueeze."""
    return call.op("Unsqueeze", call.value(input), call.ints([dim % call.result.dim()]))


@handles("expand", "expand_as", "broadcast_to")
def expand(call: Call, input: Tensor, *args: Any, **kwargs: Any) -> Written:
    """Writes Expand, with 1 for axes that are not expanded, so that their sizes need not be known."""
    after, before = call.result.shape, input.shape
    added = len(after) - len(before)
    sizes = [1 if axis >= added and stays(before[axis - added], size) else size for axis, size in enumerate(after)]
    if not added and all(isinstance(size, int) and size == 1 for size in sizes):
        return call.value(input)
    return call.op("Expand", call.value(input), call.ints(sizes))


@handles("repeat", "tile")
def repeat(call: Call, input: Tensor, *repeats: Any, **kwargs: Any) -> Written:
    """Writes Tile."""
    counts = list(repeats[0]) if repeats and not isinstance(repeats[0], (int, torch.SymInt)) else list(repeats)
    if kwargs:
        counts = list(next(iter(kwargs.values())))
    counts = [1] * (input.dim() - len(counts)) + counts
    x, added = call.value(input), len(counts) - input.dim()
    if added:
        x = call.op("Unsqueeze", x, call.ints(range(added)))
    if all(isinstance(one, int) and one == 1 for one in counts):
        return x
    return call.op("Tile", x, call.ints(counts))
