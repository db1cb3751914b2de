"""Arithmetic of two operands, and functions of each element."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from ...calls.function_names import name_of
from ..call import Call, Scalar
from ..table import REFUSED, Written, handles
from ..types import onnx_type

Operand = Tensor | Scalar


def _operands(call: Call, *operands: Operand) -> list[ir.Value]:
    """Returns the operands in the type of the result."""
    return [call.value(one, call.result.dtype) for one in operands]


def _promoted(call: Call, *operands: Operand) -> list[ir.Value]:
    """Returns the operands in the type in which torch compares them."""
    dtype = _common_type(*operands)
    return [call.value(one, dtype) for one in operands]


def _common_type(*operands: Operand) -> torch.dtype:
    first, second = (_plain(one) for one in operands)
    return torch.result_type(first, second)


def _plain(operand: Operand) -> Any:
    """Returns a plain number for a size, of which only the type is needed."""
    if isinstance(operand, torch.SymInt):
        return 1
    return 1.0 if isinstance(operand, torch.SymFloat) else operand


# --- the four rules ---


@handles("add")
def add(call: Call, input: Operand, other: Operand, *, alpha: Scalar = 1) -> Written:
    """Writes Add, or Or for booleans."""
    return _sum(call, "Add", input, other, alpha)


@handles("sub", "subtract")
def sub(call: Call, input: Operand, other: Operand, *, alpha: Scalar = 1) -> Written:
    """Writes Sub."""
    return _sum(call, "Sub", input, other, alpha)


@handles("__rsub__", "rsub")
def rsub(call: Call, input: Operand, other: Operand, *, alpha: Scalar = 1) -> Written:
    """Writes Sub with the operands exchanged."""
    if alpha == 1:
        return _sum(call, "Sub", other, input, 1)
    if call.result.dtype is torch.bool:
        return REFUSED
    subtrahend, base = _operands(call, input, other)
    return call.op("Sub", base, call.op("Mul", subtrahend, call.value(alpha, call.result.dtype)))


def _sum(call: Call, op_type: str, input: Operand, other: Operand, alpha: Scalar) -> Written:
    left, right = _operands(call, input, other)
    if call.result.dtype is torch.bool:
        return call.op("Or", left, right) if op_type == "Add" and alpha == 1 else REFUSED
    if alpha != 1:
        right = _widened(call, "Mul", right, call.value(alpha, call.result.dtype))
    return _widened(call, op_type, left, right)


@handles("mul", "multiply")
def mul(call: Call, input: Operand, other: Operand) -> Written:
    """Writes Mul, or And for booleans."""
    return _widened(call, "And" if call.result.dtype is torch.bool else "Mul", *_operands(call, input, other))


def _widened(call: Call, op_type: str, left: ir.Value, right: ir.Value) -> ir.Value:
    """Writes the operation; in int32 for narrower integers, which have no such operation, with the same overflow."""
    if call.result.dtype not in (torch.int8, torch.int16, torch.uint8):
        return call.op(op_type, left, right)
    wide, narrow = int(ir.DataType.INT32), int(onnx_type(call.result.dtype))
    result = call.op(op_type, *(call.op("Cast", one, to=wide) for one in (left, right)))
    return call.op("Cast", result, to=narrow)


@handles("true_divide", "__truediv__", "__div__")
def true_divide(call: Call, input: Operand, other: Operand) -> Written:
    """Writes Div of real numbers."""
    return call.op("Div", *_operands(call, input, other))


@handles("__rtruediv__")
def rdiv(call: Call, input: Operand, other: Operand) -> Written:
    """Writes Div with the operands exchanged; Reciprocal of a tensor below 1."""
    if isinstance(other, (int, float)) and other == 1:
        return call.op("Reciprocal", *_operands(call, input))
    return call.op("Div", *_operands(call, other, input))


@handles("div", "divide")
def div(call: Call, input: Operand, other: Operand, *, rounding_mode: str | None = None) -> Written:
    """Writes Div and its rounding."""
    if rounding_mode is None:
        return true_divide(call, input, other)
    if rounding_mode == "floor":
        return floor_divide(call, input, other)
    left, right = _operands(call, input, other)
    quotient = call.op("Div", left, right)
    return truncated(call, quotient) if call.result.dtype.is_floating_point else quotient


@handles("floor_divide", "__floordiv__")
def floor_divide(call: Call, input: Operand, other: Operand) -> Written:
    """Writes Python's ``//`` as (x - remainder) / y, since the quotient of floats may be rounded to the next integer.

    That quotient is an integer except for its last bits. A division by 0 has the result of Div.
    """
    left, right = _operands(call, input, other)
    if not call.result.dtype.is_floating_point:
        return call.op("Div", call.op("Sub", left, call.op("Mod", left, right)), right)
    exact = call.op("Div", call.op("Sub", left, _remainder(call, left, right)), right)
    result = call.op("Round", exact)
    if call.is_constant(other):
        return result
    zero = call.number(0, call.result.dtype)
    return call.op("Where", call.op("Equal", right, zero), call.op("Div", left, right), result)


@handles("__rfloordiv__")
def rfloor_divide(call: Call, input: Operand, other: Operand) -> Written:
    """Writes ``//`` with the operands exchanged."""
    return floor_divide(call, other, input)


@handles("remainder", "__rmod__")
def remainder(call: Call, input: Operand, other: Operand) -> Written:
    """Writes Python's ``%``, which has the sign of the divisor."""
    if call.function is torch.Tensor.__rmod__:
        input, other = other, input
    left, right = _operands(call, input, other)
    return _remainder(call, left, right) if call.result.dtype.is_floating_point else call.op("Mod", left, right)


def _remainder(call: Call, left: ir.Value, right: ir.Value) -> ir.Value:
    """Writes the remainder with the sign of the divisor; ONNX's Mod of floats has the sign of the dividend."""
    zero = call.number(0, call.result.dtype)
    rest = call.op("Mod", left, right, fmod=1)
    is_other_sign = call.op("Less", call.op("Mul", call.op("Sign", rest), call.op("Sign", right)), zero)
    return call.op("Where", is_other_sign, call.op("Add", rest, right), rest)


@handles("fmod")
def fmod(call: Call, input: Operand, other: Operand) -> Written:
    """Writes C's remainder, which has the sign of the dividend."""
    return call.op("Mod", *_operands(call, input, other), fmod=1)


@handles("pow", "__pow__")
def power(call: Call, input: Operand, exponent: Operand) -> Written:
    """Writes Pow."""
    return call.op("Pow", *_operands(call, input, exponent))


@handles("__rpow__")
def rpow(call: Call, input: Operand, other: Operand) -> Written:
    """Writes Pow with the operands exchanged."""
    return call.op("Pow", *_operands(call, other, input))


@handles("addcmul")
def addcmul(call: Call, input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Scalar = 1) -> Written:
    """Writes ``input + value * tensor1 * tensor2``."""
    base, left, right = _operands(call, input, tensor1, tensor2)
    product = call.op("Mul", left, right)
    return call.op(
        "Add", base, product if value == 1 else call.op("Mul", product, call.value(value, call.result.dtype))
    )


@handles("addcdiv")
def addcdiv(call: Call, input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Scalar = 1) -> Written:
    """Writes ``input + value * tensor1 / tensor2``."""
    base, left, right = _operands(call, input, tensor1, tensor2)
    left = left if value == 1 else call.op("Mul", left, call.value(value, call.result.dtype))
    return call.op("Add", base, call.op("Div", left, right))


# --- smallest and largest ---


@handles("maximum", "minimum", "fmax", "fmin")
def larger(call: Call, input: Tensor, other: Tensor) -> Written:
    """Writes Max or Min of two tensors."""
    return extreme(call, input, other)


def extreme(call: Call, input: Tensor, other: Tensor) -> Written:
    """Writes Max or Min, by the name of the function."""
    if call.result.dtype is torch.bool:
        return REFUSED
    return call.op("Max" if "max" in call.function.__name__ else "Min", *_operands(call, input, other))


@handles("clamp", "clip", "clamp_min", "clamp_max")
def clamp(call: Call, input: Tensor, min: Operand | None = None, max: Operand | None = None) -> Written:
    """Writes Clip between numbers, Max and Min with tensors."""
    if call.function.__name__.startswith("clamp_max"):
        min, max = max, min
    dtype = call.result.dtype
    x = call.value(input, dtype)
    if all(
        one is None or (call.is_constant(one) and not (isinstance(one, Tensor) and one.dim())) for one in (min, max)
    ):
        bounds = [None if one is None else call.value(one, dtype) for one in (min, max)]
        return call.op("Clip", x, *bounds)
    if min is not None:
        x = call.op("Max", x, call.value(min, dtype))
    return x if max is None else call.op("Min", x, call.value(max, dtype))


def _is_number(call: Call, one: Operand) -> bool:
    return call.is_constant(one) and not (isinstance(one, Tensor) and one.dim())


# --- comparison, logic, choice ---

_COMPARISONS = {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}


@handles(*_COMPARISONS, "greater", "greater_equal", "less", "less_equal", "ne", "not_equal", "__eq__", "__ne__")
def compare(call: Call, input: Operand, other: Operand) -> Written:
    """Writes a comparison."""
    name = call.function.__name__.strip("_")
    name = {"greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne"}.get(name, name)
    left, right = _promoted(call, input, other)
    if name == "ne":
        return call.op("Not", call.op("Equal", left, right))
    if _common_type(input, other) is torch.bool and name != "eq":
        return REFUSED
    return call.op(_COMPARISONS[name], left, right)


_LOGIC = {"logical_and": "And", "logical_or": "Or", "logical_xor": "Xor"}
_BITS = {"and": "And", "or": "Or", "xor": "Xor"}


@handles(*_LOGIC)
def logic(call: Call, input: Tensor, other: Tensor) -> Written:
    """Writes And, Or or Xor."""
    left, right = (call.value(one, torch.bool) for one in (input, other))
    return call.op(_LOGIC[call.function.__name__.rstrip("_")], left, right)


@handles(*(f"{prefix}{name}{suffix}" for name in _BITS for prefix, suffix in (("bitwise_", ""), ("__", "__"))))
def bits(call: Call, input: Operand, other: Operand) -> Written:
    """Writes And, Or or Xor of booleans; of the bits of integers from opset 18 on."""
    name = _BITS[call.function.__name__.strip("_").removeprefix("bitwise_")]
    left, right = _operands(call, input, other)
    if call.result.dtype is torch.bool:
        return call.op(name, left, right)
    call.need_opset(18, f"Bitwise{name}")
    return call.op(f"Bitwise{name}", left, right)


@handles("logical_not")
def logical_not(call: Call, input: Tensor) -> Written:
    """Writes Not."""
    return call.op("Not", call.value(input, torch.bool))


@handles("bitwise_not", "__invert__")
def bitwise_not(call: Call, input: Tensor) -> Written:
    """Writes Not of booleans; of the bits of integers from opset 18 on."""
    if input.dtype is torch.bool:
        return call.op("Not", call.value(input))
    call.need_opset(18, "BitwiseNot")
    return call.op("BitwiseNot", call.value(input))


@handles("where")
def where(call: Call, condition: Tensor, input: Operand | None = None, other: Operand | None = None) -> Written:
    """Writes Where."""
    if input is None or other is None:
        return REFUSED
    if call.function is torch.Tensor.where:  # x.where(condition, other)
        condition, input = input, condition  # type: ignore[assignment]
    return _chosen(call, call.value(condition, torch.bool), *_operands(call, input, other))


def _chosen(call: Call, condition: ir.Value, first: ir.Value, second: ir.Value) -> ir.Value:
    """Writes Where; And and Or for booleans, which onnxruntime's Where does not take."""
    if call.result.dtype is not torch.bool:
        return call.op("Where", condition, first, second)
    return call.op("Or", call.op("And", condition, first), call.op("And", call.op("Not", condition), second))


@handles("masked_fill")
def masked_fill(call: Call, input: Tensor, mask: Tensor, value: Operand) -> Written:
    """Writes Where."""
    return _chosen(call, call.value(mask, torch.bool), *_operands(call, value, input))


# --- functions of each element ---

_FUNCTIONS = {
    **{name: name.capitalize() for name in ("exp", "log", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan")},
    **{name: name.capitalize() for name in ("sinh", "cosh", "asinh", "acosh", "atanh", "sigmoid", "tanh", "erf")},
    **{f"arc{name}": f"A{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "reciprocal": "Reciprocal", "special.erf": "Erf",
    "special.expit": "Sigmoid",
}  # fmt: skip
_SIGNED = {
    "abs": "Abs",
    "absolute": "Abs",
    "neg": "Neg",
    "negative": "Neg",
    "sign": "Sign",
    "__neg__": "Neg",
    "__abs__": "Abs",
}
_ROUNDINGS = {"floor": "Floor", "ceil": "Ceil", "round": "Round"}


@handles(*_FUNCTIONS, *_SIGNED)
def function(call: Call, input: Tensor) -> Written:
    """Writes the operator of the same name."""
    if call.result.dtype is torch.bool:
        return REFUSED
    return call.op({**_FUNCTIONS, **_SIGNED}[name_of(call.function)], *_operands(call, input))


@handles(*_ROUNDINGS)
def rounded(call: Call, input: Tensor, *, decimals: int = 0) -> Written:
    """Writes Floor, Ceil or Round (ties to even, as in torch); nothing for integers."""
    if not input.is_floating_point():
        return call.value(input) if decimals == 0 else REFUSED
    op_type = _ROUNDINGS[call.function.__name__.rstrip("_")]
    if decimals == 0:
        return call.op(op_type, call.value(input))
    factor = call.number(10 ** abs(decimals), input.dtype)
    there, back = ("Mul", "Div") if decimals > 0 else ("Div", "Mul")
    return call.op(back, call.op(op_type, call.op(there, call.value(input), factor)), factor)


@handles("trunc", "fix")
def trunc(call: Call, input: Tensor) -> Written:
    """Writes Floor of the magnitude, with its sign."""
    return truncated(call, call.value(input)) if input.is_floating_point() else call.value(input)


@handles("frac")
def frac(call: Call, input: Tensor) -> Written:
    """Writes ``x - trunc(x)``."""
    x = call.value(input)
    return call.op("Sub", x, truncated(call, x))


def truncated(call: Call, x: ir.Value) -> ir.Value:
    """Writes ``x`` without its fraction."""
    return call.op("Mul", call.op("Sign", x), call.op("Floor", call.op("Abs", x)))


@handles("square")
def square(call: Call, input: Tensor) -> Written:
    """Writes a product."""
    (x,) = _operands(call, input)
    return call.op("Mul", x, x)


@handles("rsqrt")
def rsqrt(call: Call, input: Tensor) -> Written:
    """Writes Div of 1 by Sqrt."""
    return call.op("Div", call.number(1, call.result.dtype), call.op("Sqrt", *_operands(call, input)))
