"""Normalizations in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..deploy_pair import Node
from .registry import CUSTOM_DOMAIN, Array, register

_EPSILON = 1e-5  # the ONNX standard's default of every operator here


def standardize(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    """Returns (x - mean) / sqrt(variance + epsilon) with the biased variance, the mean and the inverse deviation."""
    mean = x.mean(axis=axes, keepdims=True)
    deviation = np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + epsilon)
    return (x - mean) / deviation, mean, 1.0 / deviation


@register("BatchNormalization")
def _batch_normalization(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    if node.get("training_mode", 0):
        raise ValueError("training mode is not supported.")
    x, *statistics = inputs
    gamma, beta, mean, variance = (along(one, x.ndim, 1) for one in statistics)
    return ((x - mean) / np.sqrt(variance + _epsilon(node)) * gamma + beta,)


@register("LayerNormalization")
def _layer_normalization(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    x, scale = inputs[:2]
    first = node.get("axis", -1) % x.ndim
    result, mean, inverse = standardize(x, tuple(range(first, x.ndim)), _epsilon(node))
    result = result * scale
    has_bias = len(inputs) > 2 and inputs[2] is not None
    return (result + inputs[2] if has_bias else result, mean, inverse)


@register("InstanceNormalization")
def _instance_normalization(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    x, scale, bias = inputs
    result, _, _ = standardize(x, tuple(range(2, x.ndim)), _epsilon(node))
    return (result * along(scale, x.ndim, 1) + along(bias, x.ndim, 1),)


@register("GroupNormalization")
def _group_normalization(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    x, scale, bias = inputs
    groups = node.get("num_groups")
    grouped = x.reshape(x.shape[0], groups, -1)
    result = standardize(grouped, (2,), _epsilon(node))[0].reshape(x.shape)
    if node.opset < 21:  # one scale per group until then
        scale, bias = (np.repeat(one, x.shape[1] // groups) for one in (scale, bias))
    return (result * along(scale, x.ndim, 1) + along(bias, x.ndim, 1),)


@register("LayerNorm", domain=CUSTOM_DOMAIN)
def _custom_layer_norm(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    """Normalises one axis only, ``dim`` (spec 12.1)."""
    x, weight, bias = inputs
    axis = node.get("dim") % x.ndim
    result, _, _ = standardize(x, (axis,), _epsilon(node))
    return (result * along(weight, x.ndim, axis) + along(bias, x.ndim, axis),)


@register("LpNormalization")
def _lp_normalization(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    (x,), axis = inputs, node.get("axis", -1)
    norm = np.linalg.norm(x, ord=node.get("p", 2), axis=axis, keepdims=True)
    return (x / np.where(norm == 0, 1.0, norm),)


def along(vector: Array, rank: int, axis: int) -> Array:
    """Returns ``vector`` shaped to broadcast along ``axis`` of a tensor with ``rank`` dimensions."""
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)


def _epsilon(node: Node) -> float:
    return float(np.float32(node.get("epsilon", _EPSILON)))
