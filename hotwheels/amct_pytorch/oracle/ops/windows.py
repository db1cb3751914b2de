"""Geometry of convolutions and poolings: the positions of the windows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..deploy_pair import Node


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """The windows of one node; every field has one value per spatial axis.

    Attributes:
      size: Extent of the input.
      kernel: Number of taps.
      begin: Padding before the input.
      end: Padding after the input, as the node states.
      output: Number of windows.
    """

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    output: tuple[int, ...]

    def padded_sizes(self) -> list[int]:
        """Returns the extent with padding, long enough for windows that reach beyond the padding with ceil_mode."""
        axes = zip(self.output, self.stride, self.dilation, self.kernel, strict=True)
        needed = [(out - 1) * stride + dilation * (kernel - 1) + 1 for out, stride, dilation, kernel in axes]
        given = map(sum, zip(self.begin, self.size, self.end, strict=True))
        return [max(pair) for pair in zip(needed, given, strict=True)]

    def pad(self, x: NDArray[Any], value: float) -> NDArray[Any]:
        """Returns a copy with padding; ``x`` itself if there is none."""
        extents = zip(self.padded_sizes(), self.size, self.begin, strict=True)
        after = [padded - size - begin for padded, size, begin in extents]
        if not any(self.begin) and not any(after):
            return x
        return np.pad(x, [(0, 0), (0, 0), *zip(self.begin, after, strict=True)], constant_values=value)

    def tap(self, padded: NDArray[Any], position: Sequence[int]) -> NDArray[Any]:
        """Returns the elements of all windows at one position of the kernel: a view [N, C, *output]."""
        slices = [
            slice(at * dilation, at * dilation + (out - 1) * stride + 1, stride)
            for at, dilation, out, stride in zip(position, self.dilation, self.output, self.stride, strict=True)
        ]
        index: tuple[Any, ...] = (..., *slices)
        return np.asarray(padded[index])

    def inside(self, axis: int, window: int) -> slice:
        """Returns where the elements of one window lie in the input along ``axis``; padding is left out."""
        start, step = window * self.stride[axis] - self.begin[axis], self.dilation[axis]
        stop = start + step * (self.kernel[axis] - 1) + 1
        return slice(start if start >= 0 else start % step, max(stop, 0), step)


def windows(node: Node, size: Sequence[int], kernel: Sequence[int], *, ceil_mode: bool = False) -> Windows:
    """Returns the windows of a Conv or pooling node over an input of spatial ``size``.

    Raises:
      ValueError: The kernel does not fit into the padded input.
    """
    rank = len(size)
    stride, dilation = _per_axis(node, "strides", rank), _per_axis(node, "dilations", rank)
    begin, end = _pads(node, size, kernel, stride, dilation)
    extent = [dilation[at] * (kernel[at] - 1) + 1 for at in range(rank)]
    padded = [begin[at] + size[at] + end[at] for at in range(rank)]
    output = tuple(_count(padded[at], begin[at] + size[at], extent[at], stride[at], ceil_mode) for at in range(rank))
    if min(output, default=1) < 1:
        raise ValueError(f"the kernel {tuple(kernel)} is larger than the padded input {tuple(size)}.")
    return Windows(
        size=tuple(size), kernel=tuple(kernel), stride=stride, dilation=dilation, begin=begin, end=end, output=output
    )


def _per_axis(node: Node, attribute: str, rank: int) -> tuple[int, ...]:
    return tuple(node.get(attribute, (1,) * rank))


def _pads(
    node: Node, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    auto, rank = node.get("auto_pad", "NOTSET"), len(size)
    if auto in ("NOTSET", ""):
        pads = tuple(node.get("pads", (0,) * (2 * rank)))
        return pads[:rank], pads[rank:]
    if auto == "VALID":
        return (0,) * rank, (0,) * rank
    total = [
        max((math.ceil(size[at] / stride[at]) - 1) * stride[at] + dilation[at] * (kernel[at] - 1) + 1 - size[at], 0)
        for at in range(rank)
    ]
    smaller, larger = tuple(one // 2 for one in total), tuple(one - one // 2 for one in total)
    return (smaller, larger) if auto == "SAME_UPPER" else (larger, smaller)


def _count(padded: int, start_limit: int, extent: int, stride: int, ceil_mode: bool) -> int:
    """Returns the number of windows; with ceil_mode, as in torch, without a window that starts in the end padding."""
    if not ceil_mode:
        return (padded - extent) // stride + 1
    count = -((extent - padded) // stride) + 1
    return count - 1 if (count - 1) * stride >= start_limit else count
