"""Element-wise arithmetic, comparison and logic. Real inputs and results are float64."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..deploy_pair import Node
from .registry import Array, SimpleKernel, register, register_simple


def _is_real(array: NDArray[Any]) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def divide(a: Array, b: Array) -> Array:
    """Returns the quotient; that of integers is truncated towards zero, as in C."""
    if _is_real(a):
        return np.asarray(a / b)
    quotient = np.floor_divide(a, b)
    return np.asarray(quotient + ((quotient < 0) & (quotient * b != a)))


def power(a: Array, b: Array) -> Array:
    """Returns a ** b in the type of ``a``. The exponents 2, 0.5 and -1 round once, as in every implementation."""
    if b.size == 1 and _is_real(a):
        exponent = float(b.reshape(()))
        a = np.broadcast_to(a, np.broadcast_shapes(a.shape, b.shape))
        if exponent == 2.0:
            return np.asarray(a * a)
        if exponent == 0.5:
            return np.sqrt(a)
        if exponent == -1.0:
            return np.asarray(1.0 / a)
    return np.asarray(np.power(a, b)).astype(a.dtype)


def clip(x: Array, lower: Array | None = None, upper: Array | None = None) -> Array:
    """Returns x clipped to the bounds that are not None."""
    x = x if lower is None else np.maximum(x, lower)
    return np.asarray(x if upper is None else np.minimum(x, upper))


def _bits(operator: np.ufunc, a: Array, b: Array) -> Array:
    return np.asarray(operator(a.astype(bool), b.astype(bool)))


_FUNCTIONS: dict[str, SimpleKernel] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": divide,
    "Pow": power,
    "Neg": np.negative,
    "Abs": np.abs,
    "Sign": np.sign,
    "Reciprocal": np.reciprocal,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Log": np.log,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.rint,  # half to even, as ONNX
    "Sin": np.sin,
    "Cos": np.cos,
    "Tan": np.tan,
    "Asin": np.arcsin,
    "Acos": np.arccos,
    "Atan": np.arctan,
    "Sinh": np.sinh,
    "Cosh": np.cosh,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Not": np.logical_not,
    "IsNaN": np.isnan,
    "Where": np.where,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
    "BitwiseNot": np.bitwise_not,
    "And": lambda a, b: _bits(np.logical_and, a, b),
    "Or": lambda a, b: _bits(np.logical_or, a, b),
    "Xor": lambda a, b: _bits(np.logical_xor, a, b),
    "Sum": lambda *arrays: reduce(np.add, arrays),
    "Max": lambda *arrays: reduce(np.maximum, arrays),
    "Min": lambda *arrays: reduce(np.minimum, arrays),
    "Mean": lambda *arrays: reduce(np.add, arrays) / len(arrays),
}
for _name, _function in _FUNCTIONS.items():
    register_simple(_name, _function)


@register("Clip")
def _clip(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    bounds = [np.asarray(node.get(name)) if name in node.attributes else None for name in ("min", "max")]
    return (clip(inputs[0], *(inputs[1:] if len(inputs) > 1 else bounds)),)


@register("IsInf")
def _is_inf(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    signs = (("detect_positive", np.isposinf), ("detect_negative", np.isneginf))
    found = [is_it(inputs[0]) for name, is_it in signs if node.get(name, 1)]
    return (reduce(np.logical_or, found, np.zeros(inputs[0].shape, dtype=bool)),)


@register("Mod")
def _mod(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    return ((np.fmod if node.get("fmod", 0) else np.mod)(*inputs),)


@register("Cast")
def _cast(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    return (_converted(inputs[0], onnx.helper.tensor_dtype_to_np_dtype(node.get("to"))),)


@register("CastLike")
def _cast_like(_node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    return (_converted(inputs[0], inputs[1].dtype),)


def _converted(x: Array, dtype: np.dtype[Any]) -> Array:
    """Returns ``x`` in ``dtype``; every float type is float64, since nothing is rounded between grids (spec 10.4)."""
    is_integer = dtype == np.bool_ or np.issubdtype(dtype, np.integer)
    return x.astype(dtype if is_integer else np.float64)
