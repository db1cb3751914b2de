"""Convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from ..call import Call, Scalar
from ..table import REFUSED, Written, handles


@handles("F.conv2d", "F.conv3d")
def conv(
    call: Call,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Written:
    """Writes Conv, with ``same`` and ``valid`` paddings as numbers."""
    return _conv(call, input, weight, bias, stride, padding, dilation, groups)


@handles("padded_conv2d")
def padded_conv(
    call: Call,
    input: Tensor,
    margins: Sequence[int],
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: str | int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
) -> Written:
    """Writes Conv whose ``pads`` are the margins and the padding of the convolution."""
    return _conv(call, input, weight, bias, stride, padding, dilation, groups, margins)


def _conv(
    call: Call,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: str | int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    margins: Sequence[int] = (),
) -> ir.Value:
    rank = weight.dim() - 2
    kernel, dilations = list(weight.shape[2:]), each(dilation, rank)

    def write(x: ir.Value) -> ir.Value:
        return call.op(
            "Conv",
            x,
            call.value(weight),
            None if bias is None else call.value(bias),
            dilations=dilations,
            group=groups,
            kernel_shape=kernel,
            pads=with_margins(_pads(padding, kernel, dilations), margins),
            strides=each(stride, rank),
        )

    return batched(call, input, rank + 2, write)


@handles("F.conv_transpose2d", "F.conv_transpose3d")
def conv_transpose(
    call: Call,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Written:
    """Writes ConvTranspose."""
    rank = weight.dim() - 2
    extra = each(output_padding, rank)
    if not all(isinstance(one, int) for one in extra):
        return REFUSED

    begins, ends = each(padding, rank), each(padding, rank)
    if any(one >= step for one, step in zip(extra, each(stride, rank), strict=True)):
        # onnxruntime refuses so large an output_padding; less padding at the end is the same.
        ends = [end - one for end, one in zip(ends, extra, strict=True)]
        extra = [0] * rank
        if min(ends) < 0:
            return REFUSED

    def write(x: ir.Value) -> ir.Value:
        return call.op(
            "ConvTranspose",
            x,
            call.value(weight),
            None if bias is None else call.value(bias),
            dilations=each(dilation, rank),
            group=groups,
            kernel_shape=list(weight.shape[2:]),
            output_padding=extra if any(extra) else None,
            pads=[*begins, *ends],
            strides=each(stride, rank),
        )

    return batched(call, input, rank + 2, write)


def each(value: int | Sequence[int], count: int) -> list[int]:
    """Returns ``value`` for each of ``count`` axes."""
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


def batched(call: Call, input: Tensor, rank: int, write: object) -> ir.Value:
    """Calls ``write``; an input without batch axis is written as a batch of one sample."""
    assert callable(write)
    x = call.value(input)
    if input.dim() == rank:
        return write(x)  # type: ignore[no-any-return]
    axes = call.ints([0])
    return call.op("Squeeze", write(call.op("Unsqueeze", x, axes)), axes)


def with_margins(pads: Sequence[int], margins: Sequence[int]) -> list[int]:
    """Returns ``pads`` (begins, then ends) plus the ``margins`` of `nn.padding`, which start with the last axis."""
    rank, result = len(pads) // 2, list(pads)
    for number in range(len(margins) // 2):
        result[rank - 1 - number] += margins[2 * number]
        result[2 * rank - 1 - number] += margins[2 * number + 1]
    return result


def _pads(padding: str | int | Sequence[int], kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Returns begins, then ends; the odd element of ``same`` is padded at the end, as in torch."""
    if padding == "same":
        total = [dilation * (size - 1) for size, dilation in zip(kernel, dilations, strict=True)]
        return [*(one // 2 for one in total), *(one - one // 2 for one in total)]
    return each(0 if isinstance(padding, str) else padding, len(kernel)) * 2


@handles("F.linear")
def linear(call: Call, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Written:
    """Writes Gemm of a matrix with a bias, else MatMul and Add."""
    if input.dim() == 2 and bias is not None and weight.dim() == 2:
        operands = (call.value(input), call.value(weight), call.value(bias))
        return call.op("Gemm", *operands, alpha=1.0, beta=1.0, transB=1)
    if weight.dim() != 2:
        return REFUSED
    if call.is_constant(weight):
        columns = call.constant(weight.t())
    else:
        columns = call.op("Transpose", call.value(weight), perm=[1, 0])
    product = call.op("MatMul", call.value(input), columns)
    return product if bias is None else call.op("Add", product, call.value(bias))


@handles("matmul", "__matmul__", "mm", "spmm", "bmm", "linalg.matmul")
def matmul(call: Call, input: Tensor, *others: Tensor, **kwargs: Tensor) -> Written:
    """Writes MatMul."""
    (other,) = (*others, *kwargs.values())
    return call.op("MatMul", call.value(input), call.value(other))


@handles("__rmatmul__")
def rmatmul(call: Call, input: Tensor, other: Tensor) -> Written:
    """Writes MatMul with the operands exchanged."""
    return call.op("MatMul", call.value(other), call.value(input))


@handles("addmm")
def addmm(call: Call, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Written:
    """Writes Gemm."""
    if not input.is_floating_point():
        return REFUSED
    operands = (call.value(mat1), call.value(mat2), call.value(input))
    return call.op("Gemm", *operands, alpha=float(alpha), beta=float(beta))


@handles("baddbmm")
def baddbmm(
    call: Call, input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1
) -> Written:
    """Writes MatMul and Add."""
    product = _times(call, call.op("MatMul", call.value(batch1), call.value(batch2)), alpha)
    return product if beta == 0 else call.op("Add", _times(call, call.value(input), beta), product)


def _times(call: Call, x: ir.Value, factor: Scalar) -> ir.Value:
    return x if factor == 1 else call.op("Mul", x, call.value(factor, call.result.dtype))


@handles("einsum")
def einsum(call: Call, equation: str, *operands: Tensor) -> Written:
    """Writes Einsum."""
    given = operands[0] if len(operands) == 1 and not isinstance(operands[0], Tensor) else operands
    if not isinstance(equation, str) or not all(one.is_floating_point() for one in given):
        return REFUSED
    return call.op("Einsum", *(call.value(one) for one in given), equation=equation.replace(" ", ""))


@handles("F.scaled_dot_product_attention")
def attention(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Written:
    """Writes two products and the Softmax between them."""
    sizes = (query.shape[-1], query.shape[-2], key.shape[-2])
    if dropout_p or enable_gqa or not all(isinstance(one, int) for one in (sizes if is_causal else sizes[:1])):
        return REFUSED
    axes = list(range(key.dim()))
    axes[-1], axes[-2] = axes[-2], axes[-1]
    factor = call.number(sizes[0] ** -0.5 if scale is None else scale, query.dtype)
    scores = call.op(
        "MatMul", call.op("Mul", call.value(query), factor), call.op("Transpose", call.value(key), perm=axes)
    )
    blocked = call.number(float("-inf"), query.dtype)
    if is_causal:
        is_seen = call.constant(torch.ones(sizes[1:], dtype=torch.bool).tril())
        scores = call.op("Where", is_seen, scores, blocked)
    elif attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = call.op("Where", call.value(attn_mask), scores, blocked)
    elif attn_mask is not None:
        scores = call.op("Add", scores, call.value(attn_mask, query.dtype))
    return call.op("MatMul", call.op("Softmax", scores, axis=-1), call.value(value))
