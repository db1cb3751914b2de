"""Activation functions."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from ....nn.exported_form import SOFTPLUS_THRESHOLD
from ...calls.function_names import name_of
from ..call import Call
from ..table import REFUSED, Written, handles

_GELU_OPSET, _HARD_SWISH_OPSET = 20, 14


@handles("relu", "F.relu")
def relu(call: Call, input: Tensor, inplace: bool = False) -> Written:
    """Writes Relu, or Max for integers, which onnxruntime's Relu does not take."""
    x = call.value(input)
    return call.op("Relu", x) if input.is_floating_point() else call.op("Max", x, call.number(0, input.dtype))


@handles("F.relu6")
def relu6(call: Call, input: Tensor, inplace: bool = False) -> Written:
    """Writes Clip."""
    return _clip(call, input, 0.0, 6.0)


@handles("F.hardtanh")
def hardtanh(call: Call, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Written:
    """Writes Clip."""
    return _clip(call, input, min_val, max_val)


def _clip(call: Call, input: Tensor, low: float, high: float) -> ir.Value:
    dtype = input.dtype
    return call.op("Clip", call.value(input), call.number(low, dtype), call.number(high, dtype))


@handles("F.leaky_relu")
def leaky_relu(call: Call, input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Written:
    """Writes LeakyRelu."""
    return call.op("LeakyRelu", call.value(input), alpha=float(negative_slope))


@handles("F.rrelu", "rrelu")
def rrelu(
    call: Call,
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Written:
    """Writes LeakyRelu with the mean slope, as rrelu in evaluation."""
    return REFUSED if training else call.op("LeakyRelu", call.value(input), alpha=(lower + upper) / 2)


@handles("F.prelu", "prelu")
def prelu(call: Call, input: Tensor, weight: Tensor) -> Written:
    """Writes PRelu; its slope broadcasts against the channels, which are axis 1."""
    trailing = max(input.dim() - 2, 0)
    if call.is_constant(weight):
        slope = call.constant(weight.reshape(-1, *[1] * trailing) if trailing else weight)
    else:
        slope = call.value(weight)
        if trailing and weight.dim():
            slope = call.op("Reshape", slope, call.ints([-1, *[1] * trailing]))
    return call.op("PRelu", call.value(input), slope)


@handles("F.elu")
def elu(call: Call, input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Written:
    """Writes Elu."""
    return call.op("Elu", call.value(input), alpha=float(alpha))


@handles("F.celu", "celu")
def celu(call: Call, input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Written:
    """Writes Celu."""
    return call.op("Celu", call.value(input), alpha=float(alpha))


@handles("F.selu", "selu")
def selu(call: Call, input: Tensor, inplace: bool = False) -> Written:
    """Writes Selu."""
    return call.op("Selu", call.value(input))


@handles("F.gelu")
def gelu(call: Call, input: Tensor, approximate: str = "none") -> Written:
    """Writes Gelu or, below opset 20, its formula, with float32 constants as in the standard."""
    x = call.value(input)
    if call.opset >= _GELU_OPSET:
        return call.op("Gelu", x, approximate=approximate)
    one, half = call.number(1.0, input.dtype), call.number(0.5, input.dtype)
    if approximate == "none":
        bent = call.op("Erf", call.op("Div", x, call.number(math.sqrt(2.0), input.dtype)))
        return call.op("Mul", call.op("Mul", x, call.op("Add", bent, one)), half)
    cube = call.op("Mul", call.op("Mul", x, x), x)
    inner = call.op("Add", x, call.op("Mul", cube, call.number(0.044715, input.dtype)))
    bent = call.op("Tanh", call.op("Mul", inner, call.number(math.sqrt(2.0 / math.pi), input.dtype)))
    return call.op("Mul", call.op("Mul", x, call.op("Add", bent, one)), half)


@handles("F.silu")
def silu(call: Call, input: Tensor, inplace: bool = False) -> Written:
    """Writes the product with Sigmoid."""
    x = call.value(input)
    return call.op("Mul", x, call.op("Sigmoid", x))


@handles("F.mish")
def mish(call: Call, input: Tensor, inplace: bool = False) -> Written:
    """Writes the product with Tanh of Softplus."""
    x = call.value(input)
    return call.op("Mul", x, call.op("Tanh", call.op("Softplus", x)))


@handles("F.hardsigmoid")
def hardsigmoid(call: Call, input: Tensor, inplace: bool = False) -> Written:
    """Writes HardSigmoid."""
    return call.op("HardSigmoid", call.value(input), alpha=1.0 / 6.0)


@handles("F.hardswish")
def hardswish(call: Call, input: Tensor, inplace: bool = False) -> Written:
    """Writes HardSwish or, below opset 14, the product with HardSigmoid."""
    x = call.value(input)
    if call.opset >= _HARD_SWISH_OPSET:
        return call.op("HardSwish", x)
    return call.op("Mul", x, call.op("HardSigmoid", x, alpha=1.0 / 6.0))


@handles("F.softplus")
def softplus(call: Call, input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Written:
    """Writes Softplus; above a low ``threshold`` torch returns ``input``."""
    x = call.value(input)
    scaled = x if beta == 1.0 else call.op("Mul", x, call.number(beta, input.dtype))
    result = call.op("Softplus", scaled)
    if beta != 1.0:
        result = call.op("Div", result, call.number(beta, input.dtype))
    if threshold >= SOFTPLUS_THRESHOLD:
        return result
    return call.op("Where", call.op("Greater", scaled, call.number(threshold, input.dtype)), x, result)


@handles("F.logsigmoid")
def log_sigmoid(call: Call, input: Tensor) -> Written:
    """Writes ``-softplus(-x)``, since the sigmoid of a number far below 0 is 0."""
    return call.op("Neg", call.op("Softplus", call.op("Neg", call.value(input))))


@handles("F.softsign")
def softsign(call: Call, input: Tensor) -> Written:
    """Writes ``x / (1 + |x|)``."""
    x = call.value(input)
    return call.op("Div", x, call.op("Add", call.op("Abs", x), call.number(1, input.dtype)))


@handles("F.tanhshrink")
def tanhshrink(call: Call, input: Tensor) -> Written:
    """Writes ``x - tanh(x)``."""
    x = call.value(input)
    return call.op("Sub", x, call.op("Tanh", x))


@handles("F.softshrink")
def softshrink(call: Call, input: Tensor, lambd: float = 0.5) -> Written:
    """Writes ``x - clip(x, -lambd, lambd)``."""
    return call.op("Sub", call.value(input), _clip(call, input, -lambd, lambd))


@handles("F.hardshrink", "hardshrink")
def hardshrink(call: Call, input: Tensor, lambd: float = 0.5) -> Written:
    """Writes Where: 0 from -lambd to lambd."""
    x = call.value(input)
    is_lost = call.op("LessOrEqual", call.op("Abs", x), call.number(lambd, input.dtype))
    return call.op("Where", is_lost, call.number(0, input.dtype), x)  # NaN stays NaN


@handles("F.threshold", "threshold")
def threshold(call: Call, input: Tensor, threshold: float, value: float, inplace: bool = False) -> Written:
    """Writes Relu, or Where for other numbers than 0."""
    x = call.value(input)
    if threshold == 0 and value == 0:
        return call.op("Relu", x)
    is_replaced = call.op("LessOrEqual", x, call.number(threshold, input.dtype))
    return call.op("Where", is_replaced, call.number(value, input.dtype), x)  # NaN stays NaN


@handles("F.glu")
def glu(call: Call, input: Tensor, dim: int = -1) -> Written:
    """Writes one half times Sigmoid of the other."""
    half = call.result.shape[dim]
    if not isinstance(half, int):
        return REFUSED
    first, second = call.ops("Split", call.value(input), call.ints([half, half]), outputs=2, axis=dim)
    return call.op("Mul", first, call.op("Sigmoid", second))


@handles("softmax", "F.softmax", "log_softmax", "F.log_softmax", "F.softmin")
def softmax(
    call: Call, input: Tensor, dim: int | None = None, _stacklevel: Any = 3, dtype: torch.dtype | None = None
) -> Written:
    """Writes Softmax or LogSoftmax; ``dtype`` is the type of the result."""
    name = name_of(call.function)
    if not input.dim():
        return call.number(0.0 if "log" in name else 1.0, call.result.dtype)
    if dim is None:
        dim = 0 if input.dim() in (1, 3) else 1
    x = call.value(input, call.result.dtype)
    if name == "F.softmin":
        x = call.op("Neg", x)
    return call.op("LogSoftmax" if "log" in name else "Softmax", x, axis=dim)


@handles("F.dropout", "dropout", "F.alpha_dropout", "F.feature_alpha_dropout", *(f"F.dropout{n}d" for n in (1, 2, 3)))
def dropout(call: Call, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Written:
    """Writes nothing in evaluation."""
    return REFUSED if training and p else call.value(input)
