"""Operators that pick elements by their position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..deploy_pair import Node
from .registry import Array, register


@register("Slice", is_movement=True)
def _slice(_node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    x, starts, ends = inputs[0], inputs[1], inputs[2]
    axes = inputs[3] if len(inputs) > 3 and inputs[3] is not None else range(len(starts))
    steps = inputs[4] if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    slices = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        slices[int(axis)] = slice(int(start), _end(int(end), int(step), x.shape[int(axis)]), int(step))
    return (x[tuple(slices)],)


def _end(end: int, step: int, size: int) -> int | None:
    """Returns the end for a Python slice: None if a backward slice ends below -size, so that it includes element 0."""
    return None if step < 0 and end < -size else end


@register("Split", is_movement=True)
def _split(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    x, axis = inputs[0], node.get("axis", 0)
    given = inputs[1] if len(inputs) > 1 and inputs[1] is not None else node.get("split")
    sizes = _equal_parts(x.shape[axis], len(node.outputs)) if given is None else [int(size) for size in given]
    return np.split(x, np.cumsum(sizes)[:-1], axis=axis)


def _equal_parts(size: int, count: int) -> list[int]:
    """Returns ``count`` sizes; the last is smaller if ``size`` is no multiple of ``count`` (opset 18)."""
    part = -(-size // count)
    return [part] * (count - 1) + [size - part * (count - 1)]


@register("Gather", is_movement=True)
def _gather(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    x, indices = inputs
    axis = node.get("axis", 0)
    return (np.take(x, indices, axis=axis),)


@register("GatherElements", is_movement=True)
def _gather_elements(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    x, indices = inputs
    axis = node.get("axis", 0)
    return (np.take_along_axis(x, np.where(indices < 0, indices + x.shape[axis], indices), axis=axis),)


@register("GatherND", is_movement=True)
def _gather_nd(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    x, indices = inputs
    if node.get("batch_dims", 0):
        raise ValueError("batch_dims is not supported.")
    return (np.asarray(x[tuple(np.moveaxis(indices, -1, 0))]),)
