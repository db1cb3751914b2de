"""Operators that move elements without computing on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..deploy_pair import Node
from .registry import Array, register


@register("Identity", "Dropout", is_movement=True)
def _identity(_node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    return (inputs[0],)


@register("Reshape", is_movement=True)
def _reshape(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    x, wanted = inputs[0], [int(size) for size in inputs[1]]
    if not node.get("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return (x.reshape(wanted),)


@register("Flatten", is_movement=True)
def _flatten(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    x, axis = inputs[0], node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    return (x.reshape(rows, int(np.prod(x.shape[axis:], dtype=np.int64))),)


@register("Transpose", is_movement=True)
def _transpose(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    return (np.transpose(inputs[0], node.get("perm")),)


@register("Squeeze", is_movement=True)
def _squeeze(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    axes = _axes(node, inputs)
    return (np.squeeze(inputs[0], axis=axes),)


@register("Unsqueeze", is_movement=True)
def _unsqueeze(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    return (np.expand_dims(inputs[0], _axes(node, inputs) or ()),)


@register("Concat")
def _concat(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    return (np.concatenate(inputs, axis=node.get("axis")),)


@register("Expand", is_movement=True)
def _expand(_node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    x, shape = inputs[0], tuple(int(size) for size in inputs[1])
    return (np.broadcast_to(x, np.broadcast_shapes(x.shape, shape)),)


@register("Tile", is_movement=True)
def _tile(_node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    counts = [int(count) for count in inputs[1]]
    return (np.tile(inputs[0], counts),)


@register("DepthToSpace", is_movement=True)
def _depth_to_space(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    x, block = inputs[0], node.get("blocksize")
    batch, channels, height, width = x.shape
    depth = channels // (block * block)
    if node.get("mode", "DCR") == "DCR":
        cells = x.reshape(batch, block, block, depth, height, width).transpose(0, 3, 4, 1, 5, 2)
    else:
        cells = x.reshape(batch, depth, block, block, height, width).transpose(0, 1, 4, 2, 5, 3)
    return (cells.reshape(batch, depth, height * block, width * block),)


@register("SpaceToDepth", is_movement=True)
def _space_to_depth(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    x, block = inputs[0], node.get("blocksize")
    batch, channels, height, width = x.shape
    cells = x.reshape(batch, channels, height // block, block, width // block, block).transpose(0, 3, 5, 1, 2, 4)
    return (cells.reshape(batch, channels * block * block, height // block, width // block),)


@register("Pad", is_movement=True)
def _pad(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    x, mode = inputs[0], node.get("mode", "constant")
    widths = _pad_widths(node, inputs)
    kept = [slice(max(-begin, 0), size + min(end, 0)) for (begin, end), size in zip(widths, x.shape, strict=True)]
    cropped = x[tuple(kept)]
    added = [(max(begin, 0), max(end, 0)) for begin, end in widths]
    if mode == "constant":
        return (np.pad(cropped, added, constant_values=pad_value(node, inputs)),)
    return (np.pad(cropped, added, mode=mode),)


def pad_value(node: Node, inputs: Sequence[Any]) -> Any:
    """Returns the value with which a Pad node in constant mode fills."""
    if len(inputs) > 2 and inputs[2] is not None:
        return inputs[2].reshape(())
    return node.get("value", 0.0)


def _pad_widths(node: Node, inputs: Sequence[Any]) -> list[tuple[int, int]]:
    pads = [int(one) for one in (inputs[1] if len(inputs) > 1 else node.get("pads"))]
    rank, half = inputs[0].ndim, len(pads) // 2
    has_axes = len(inputs) > 3 and inputs[3] is not None
    widths = [(0, 0)] * rank
    for at, axis in enumerate(inputs[3] if has_axes else range(rank)):
        widths[int(axis)] = (pads[at], pads[half + at])
    return widths


def _axes(node: Node, inputs: Sequence[Any]) -> tuple[int, ...] | None:
    """Returns the axes: an input since opset 13, an attribute before; None if the node has none."""
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(int(axis) for axis in inputs[1])
    axes: tuple[int, ...] | None = node.get("axes")
    return axes
