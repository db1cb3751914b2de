"""Activation functions in float64, by their formulas in the ONNX standard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..deploy_pair import Node
from .registry import CUSTOM_DOMAIN, Array, register, register_simple

_SIXTH = float(np.float32(1 / 6))
_ROOT_2, _ROOT_2_BY_PI = float(np.float32(math.sqrt(2.0))), float(np.float32(math.sqrt(2.0 / math.pi)))
_KAPPA = float(np.float32(0.044715))
# NumPy has no error function; math.erf is the C library's, within one unit in the last place.
_erf_of_objects = np.frompyfunc(math.erf, 1, 1)


def erf(x: Array) -> Array:
    """Returns the error function."""
    return np.asarray(_erf_of_objects(x)).astype(np.float64)


def sigmoid(x: Array) -> Array:
    """Returns 1 / (1 + exp(-x)); exp may overflow to infinity, which gives the right 0."""
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-x)))


def softplus(x: Array) -> Array:
    """Returns log(1 + exp(x)) without overflow."""
    return np.logaddexp(0.0, x)


def gelu(x: Array, approximate: str) -> Array:
    """Returns x * Phi(x), or for ``tanh`` its approximation (Hendrycks & Gimpel, Gaussian Error Linear Units, 2016)."""
    if approximate == "tanh":
        return np.asarray(0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x))))
    return np.asarray(0.5 * x * (1.0 + erf(x / math.sqrt(2.0))))


def softmax(x: Array, axis: int) -> Array:
    """Returns exp(x) / sum(exp(x)); the maximum is subtracted against overflow."""
    exponentials = np.exp(x - _maximum(x, axis))
    return np.asarray(exponentials / exponentials.sum(axis=axis, keepdims=True))


def log_softmax(x: Array, axis: int) -> Array:
    """Returns the logarithm of the softmax."""
    shifted = x - _maximum(x, axis)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


def _maximum(x: Array, axis: int) -> Array:
    return np.asarray(x.max(axis=axis, keepdims=True, initial=-np.inf))


register_simple("Relu", lambda x: np.maximum(x, np.zeros((), x.dtype)))
register_simple("Sigmoid", sigmoid)
register_simple("Tanh", np.tanh)
register_simple("Erf", erf)
register_simple("Softplus", softplus)
register_simple("Softsign", lambda x: x / (1.0 + np.abs(x)))
register_simple("PRelu", lambda x, slope: np.where(x < 0, slope * x, x))
# alpha and beta of HardSwish are fixed by the standard; dividing by 6 rounds once, as torch does.
register_simple("HardSwish", lambda x: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0)
register_simple("Mish", lambda x: x * np.tanh(softplus(x)))


@register("LeakyRelu")
def _leaky_relu(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    (x,) = inputs
    return (np.where(x < 0, _attribute(node, "alpha", 0.01) * x, x),)


@register("ThresholdedRelu")
def _thresholded_relu(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    (x,) = inputs
    return (np.where(x > _attribute(node, "alpha", 1.0), x, 0.0),)


@register("Elu")
def _elu(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    (x,) = inputs
    return (np.where(x < 0, _attribute(node, "alpha", 1.0) * np.expm1(np.minimum(x, 0.0)), x),)


@register("Celu")
def _celu(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    (x,), alpha = inputs, _attribute(node, "alpha", 1.0)
    return (np.maximum(x, 0.0) + np.minimum(0.0, alpha * np.expm1(np.minimum(x, 0.0) / alpha)),)


@register("Selu")
def _selu(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    (x,) = inputs
    # Klambauer et al., Self-Normalizing Neural Networks, 2017; the defaults of the ONNX standard
    alpha = _attribute(node, "alpha", 1.67326319217681884765625)
    gamma = _attribute(node, "gamma", 1.05070102214813232421875)
    return (gamma * np.where(x < 0, alpha * np.expm1(np.minimum(x, 0.0)), x),)


@register("HardSigmoid")
def _hard_sigmoid(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    (x,) = inputs
    alpha, beta = _attribute(node, "alpha", 0.2), _attribute(node, "beta", 0.5)
    # torch means exactly 1/6 in hardsigmoid, and in hardswish below opset 14; no float32 is 1/6.
    if (alpha, beta) == (_SIXTH, 0.5):
        return (np.clip(x + 3.0, 0.0, 6.0) / 6.0,)
    return (np.clip(alpha * x + beta, 0.0, 1.0),)


@register("Softmax")
def _softmax(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    return (softmax(inputs[0], node.get("axis", -1)),)


@register("LogSoftmax")
def _log_softmax(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    return (log_softmax(inputs[0], node.get("axis", -1)),)


@register("Gelu")
def _gelu(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    """Gelu; the ONNX standard defines it as a function with constants of the type of x, float32."""
    x = inputs[0]
    if node.get("approximate", "none") == "tanh":
        return (0.5 * (x * (1.0 + np.tanh(_ROOT_2_BY_PI * (x + _KAPPA * (x * x * x))))),)
    return (0.5 * (x * (1.0 + erf(x / _ROOT_2))),)


@register("Gelu", domain=CUSTOM_DOMAIN)
def _custom_gelu(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    return (gelu(inputs[0], node.get("approximate", "tanh")),)


def _attribute(node: Node, name: str, default: float) -> float:
    """Returns a float attribute rounded to float32, as ONNX stores it; the default of the standard too."""
    return float(np.float32(node.get(name, default)))
