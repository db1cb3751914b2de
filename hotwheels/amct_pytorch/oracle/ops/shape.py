"""Shapes, constants and ranges: the integer arithmetic of shape computations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..deploy_pair import Node
from .registry import Array, register, register_simple

_SCALARS = {"value_float": np.float64, "value_int": np.int64, "value_floats": np.float64, "value_ints": np.int64}

register_simple("Size", lambda x: np.array(x.size, dtype=np.int64))


@register("Range")
def _range(_node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    start, limit, delta = (one.reshape(())[()] for one in inputs)
    return (np.arange(start, limit, delta),)


@register("Shape")
def _shape(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    return (np.array(inputs[0].shape[node.get("start", 0) : node.get("end")], dtype=np.int64),)


@register("Constant")
def _constant(node: Node, _inputs: Sequence[Any]) -> Sequence[Array]:
    if "value" in node.attributes:
        return (_float64(node.get("value")),)
    name = next((one for one in _SCALARS if one in node.attributes), None)
    if name is None:
        raise ValueError(f"a constant given as {sorted(node.attributes)} is not supported.")
    return (np.asarray(node.get(name), dtype=_SCALARS[name]),)


@register("ConstantOfShape")
def _constant_of_shape(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    value = _float64(np.asarray(node.get("value", np.zeros(1, dtype=np.float32))))
    return (np.full([int(size) for size in inputs[0]], value.reshape(()), dtype=value.dtype),)


def _float64(array: Array) -> Array:
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array
