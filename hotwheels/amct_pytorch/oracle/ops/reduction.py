"""Reductions in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..deploy_pair import Node
from .registry import Array, register


def _mean(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    return np.asarray(x.mean(axis=axis, keepdims=keepdims))


def _l1(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    return np.asarray(np.abs(x).sum(axis=axis, keepdims=keepdims))


def _sum_square(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    return np.asarray((x * x).sum(axis=axis, keepdims=keepdims))


def _l2(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    return np.sqrt(_sum_square(x, axis, keepdims))


def _log_sum(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    return np.asarray(np.log(x.sum(axis=axis, keepdims=keepdims)))


def _log_sum_exp(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    top = x.max(axis=axis, keepdims=True)
    sums = np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top
    return np.asarray(sums if keepdims else sums.squeeze(axis=axis))


_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "ReduceSum": np.sum,
    "ReduceMean": _mean,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceL1": _l1,
    "ReduceL2": _l2,
    "ReduceSumSquare": _sum_square,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
}


@register(*_REDUCTIONS)
def _reduce(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    """A reduction; the axes are an attribute or, in later opsets, an input.

    Without axes all are reduced, or none with ``noop_with_empty_axes``.
    """
    given = inputs[1] if len(inputs) > 1 and inputs[1] is not None else node.get("axes", ())
    axes = tuple(int(axis) for axis in given)
    if not axes and node.get("noop_with_empty_axes", 0):
        return (inputs[0],)
    result = _REDUCTIONS[node.op_type](inputs[0], axis=axes or None, keepdims=bool(node.get("keepdims", 1)))
    return (np.asarray(result),)
