"""Normalizations in evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from ..call import Call
from ..table import REFUSED, Written, handles
from .reduction import p_norm, reduced
from .shape import reshaped

_LAYER_NORM_OPSET = 17


@handles("F.batch_norm")
def batch_norm(
    call: Call,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Written:
    """Writes BatchNormalization on the running statistics; on those of the batch, its formula."""
    if training:
        return _batch_statistics(call, input, weight, bias, eps)
    if running_mean is None or running_var is None:
        return REFUSED
    scale = torch.ones_like(running_mean) if weight is None else weight
    shift = torch.zeros_like(running_mean) if bias is None else bias
    operands = [call.value(one) for one in (input, scale, shift, running_mean, running_var)]
    return call.op("BatchNormalization", *operands, epsilon=float(eps), momentum=1.0 - (momentum or 0.0))


def _batch_statistics(call: Call, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Written:
    if any(one is not None and not call.is_constant(one) for one in (weight, bias)):
        return REFUSED
    axes = [axis for axis in range(input.dim()) if axis != 1]
    x = call.value(input)
    centred = call.op("Sub", x, reduced(call, "ReduceMean", x, axes, keepdim=True))
    variance = reduced(call, "ReduceMean", call.op("Mul", centred, centred), axes, keepdim=True)
    result = call.op("Div", centred, call.op("Sqrt", call.op("Add", variance, call.number(eps, input.dtype))))
    shape = [-1, *[1] * (input.dim() - 2)]
    if weight is not None:
        result = call.op("Mul", result, call.constant(weight.reshape(shape)))
    return result if bias is None else call.op("Add", result, call.constant(bias.reshape(shape)))


@handles("F.instance_norm")
def instance_norm(
    call: Call,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Written:
    """Writes InstanceNormalization."""
    if not use_input_stats:
        return batch_norm(call, input, running_mean, running_var, weight, bias, False, momentum, eps)
    channels = input.shape[1]
    if not isinstance(channels, int):
        return REFUSED
    return _instance_norm(call, call.value(input), channels, weight, bias, input.dtype, eps)


def _instance_norm(
    call: Call,
    x: ir.Value,
    channels: int,
    weight: Tensor | None,
    bias: Tensor | None,
    dtype: torch.dtype,
    eps: float,
) -> ir.Value:
    scale = torch.ones(channels, dtype=dtype) if weight is None else weight
    shift = torch.zeros(channels, dtype=dtype) if bias is None else bias
    return call.op("InstanceNormalization", x, call.value(scale), call.value(shift), epsilon=float(eps))


@handles("F.group_norm")
def group_norm(
    call: Call,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Written:
    """Writes InstanceNormalization of the groups, then Mul and Add with weight and bias per channel."""
    if any(one is not None and not call.is_constant(one) for one in (weight, bias)):
        return REFUSED
    grouped = call.op("Reshape", call.value(input), call.ints([0, num_groups, -1]))
    normal = _instance_norm(call, grouped, num_groups, None, None, input.dtype, eps)
    result = reshaped(call, normal, (), input.shape)
    trailing = [1] * (input.dim() - 2)
    if weight is not None:
        result = call.op("Mul", result, call.constant(weight.reshape(-1, *trailing)))
    return result if bias is None else call.op("Add", result, call.constant(bias.reshape(-1, *trailing)))


@handles("F.layer_norm")
def layer_norm(
    call: Call,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Written:
    """Writes LayerNormalization or, below opset 17, its formula."""
    count = len(normalized_shape)
    x = call.value(input)
    if call.opset >= _LAYER_NORM_OPSET:
        scale = torch.ones(tuple(normalized_shape), dtype=input.dtype) if weight is None else weight
        shift = None if bias is None else call.value(bias)
        return call.op("LayerNormalization", x, call.value(scale), shift, axis=-count, epsilon=float(eps))
    axes = list(range(-count, 0))
    centred = call.op("Sub", x, reduced(call, "ReduceMean", x, axes, keepdim=True))
    squares = call.op("Pow", centred, call.number(2, input.dtype))
    variance = reduced(call, "ReduceMean", squares, axes, keepdim=True)
    result = call.op("Div", centred, call.op("Sqrt", call.op("Add", variance, call.number(eps, input.dtype))))
    if weight is not None:
        result = call.op("Mul", result, call.value(weight))
    return result if bias is None else call.op("Add", result, call.value(bias))


@handles("F.rms_norm", "rms_norm")
def rms_norm(
    call: Call,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Written:
    """Writes ``x / sqrt(mean(x * x) + eps)``."""
    x = call.value(input)
    axes = list(range(-len(normalized_shape), 0))
    mean = reduced(call, "ReduceMean", call.op("Mul", x, x), axes, keepdim=True)
    room = call.number(torch.finfo(input.dtype).eps if eps is None else eps, input.dtype)
    result = call.op("Div", x, call.op("Sqrt", call.op("Add", mean, room)))
    return result if weight is None else call.op("Mul", result, call.value(weight))


@handles("F.normalize")
def normalize(call: Call, input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Written:
    """Writes Div by the norm along the axis."""
    if not isinstance(dim, int):
        return REFUSED
    x = call.value(input)
    norm = p_norm(call, x, p, [dim], input.dtype, keepdim=True)
    return call.op("Div", x, call.op("Clip", norm, call.number(eps, input.dtype)))


@handles("F.local_response_norm")
def local_response_norm(
    call: Call, input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Written:
    """Writes LRN, whose window of an even size is one channel beside torch's."""
    if input.dim() != 4 or input.dtype is not torch.float32 or size % 2 == 0:
        return REFUSED
    return call.op("LRN", call.value(input), alpha=float(alpha), beta=float(beta), bias=float(k), size=size)
