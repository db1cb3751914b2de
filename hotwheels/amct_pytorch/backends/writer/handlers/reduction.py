"""Reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from ...calls.function_names import name_of
from ..call import Call
from ..table import REFUSED, Written, handles
from ..types import onnx_type
from .arithmetic import extreme

_AXES_INPUT_OPSET = 18
Axes = int | Sequence[int] | None


def reduced(call: Call, op_type: str, x: ir.Value, axes: Sequence[int] | None, *, keepdim: bool) -> ir.Value:
    """Writes a reduction; over all axes if ``axes`` is None or empty."""
    if not axes:
        return call.op(op_type, x, keepdims=int(keepdim))
    if op_type == "ReduceSum" or call.opset >= _AXES_INPUT_OPSET:
        return call.op(op_type, x, call.ints(list(axes)), keepdims=int(keepdim))
    return call.op(op_type, x, axes=list(axes), keepdims=int(keepdim))


def _list(dim: Axes) -> list[int] | None:
    if dim is None:
        return None
    return [dim] if isinstance(dim, int) else list(dim)


@handles("sum", "mean", "prod")
def total(
    call: Call,
    input: Tensor,
    dim: Axes = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
    axis: Axes = None,
    keepdims: bool | None = None,
) -> Written:
    """Writes ReduceSum, ReduceMean or ReduceProd."""
    op_type = {"sum": "ReduceSum", "mean": "ReduceMean", "prod": "ReduceProd"}[name_of(call.function)]
    axes = _list(dim if axis is None else axis)
    x = call.value(input, call.result.dtype)
    return (
        x
        if not input.dim()
        else reduced(call, op_type, x, axes, keepdim=bool(keepdim if keepdims is None else keepdims))
    )


@handles("max", "min")
def maximum(call: Call, input: Tensor, *args: Any, **kwargs: Any) -> Written:
    """Writes ReduceMax of all elements, ReduceMax and ArgMax along an axis, or Max of two tensors; or the minimum."""
    if input.dtype is torch.bool:
        return _of_booleans(call, input, *args, **kwargs)
    if not input.dim():
        return _of_scalar(call, input, *args, *kwargs.values())
    suffix = "Max" if call.function.__name__ == "max" else "Min"
    if not args and not kwargs:
        return reduced(call, f"Reduce{suffix}", call.value(input), None, keepdim=False)
    first = (*args, *kwargs.values())[0]
    if isinstance(first, Tensor):
        return extreme(call, input, first)
    dim = args[0] if args else kwargs["dim" if "dim" in kwargs else "axis"]
    keepdim = args[1] if len(args) > 1 else kwargs.get("keepdim", kwargs.get("keepdims", False))
    return [
        reduced(call, f"Reduce{suffix}", call.value(input), [dim], keepdim=keepdim),
        call.op(f"Arg{suffix}", call.value(input), axis=dim, keepdims=int(keepdim)),
    ]


def _of_booleans(
    call: Call, input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False, **others: Any
) -> Written:
    """Writes the reduction of a tensor of booleans as integers, for which onnxruntime has kernels."""
    if others or isinstance(dim, Tensor) or not input.dim():
        return REFUSED
    suffix = "Max" if call.function.__name__ == "max" else "Min"
    x = call.op("Cast", call.value(input), to=int(ir.DataType.INT32))
    found = reduced(call, f"Reduce{suffix}", x, None if dim is None else [dim], keepdim=keepdim)
    value = call.op("Cast", found, to=int(ir.DataType.BOOL))
    return value if dim is None else [value, call.op(f"Arg{suffix}", x, axis=dim, keepdims=int(keepdim))]


def _of_scalar(call: Call, input: Tensor, *arguments: Any) -> Written:
    """Writes the largest or smallest of one element: the element, the larger of two, or the element and its place."""
    if not arguments:
        return call.value(input)
    if isinstance(arguments[0], Tensor):
        return extreme(call, input, arguments[0])
    return [call.value(input), call.scalar_int(0)]


@handles("amax", "amin")
def amax(call: Call, input: Tensor, dim: Axes = (), keepdim: bool = False) -> Written:
    """Writes ReduceMax or ReduceMin."""
    if input.dtype is torch.bool:
        return REFUSED
    if not input.dim():
        return call.value(input)
    op_type = "ReduceMax" if call.function.__name__ == "amax" else "ReduceMin"
    return reduced(call, op_type, call.value(input), _list(dim), keepdim=keepdim)


@handles("argmax", "argmin")
def argmax(call: Call, input: Tensor, dim: int | None = None, keepdim: bool = False) -> Written:
    """Writes ArgMax or ArgMin: the first of equal elements; without ``dim`` of all elements in a row."""
    if input.dtype is torch.bool:
        return REFUSED
    if not input.dim():
        return call.scalar_int(0)
    op_type = "ArgMax" if call.function.__name__ == "argmax" else "ArgMin"
    x = call.value(input)
    if dim is not None:
        return call.op(op_type, x, axis=dim, keepdims=int(keepdim), select_last_index=0)
    row = call.op("Reshape", x, call.ints([-1]))
    place = call.op(op_type, row, axis=0, keepdims=0, select_last_index=0)
    return call.op("Reshape", place, call.ints([1] * input.dim())) if keepdim else place


@handles("logsumexp")
def logsumexp(call: Call, input: Tensor, dim: Axes, keepdim: bool = False) -> Written:
    """Writes ReduceLogSumExp."""
    if not input.is_floating_point():
        return REFUSED
    if not input.dim():
        return call.value(input)
    return reduced(call, "ReduceLogSumExp", call.value(input), _list(dim), keepdim=keepdim)


@handles("cumsum")
def cumsum(call: Call, input: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Written:
    """Writes CumSum."""
    x = call.value(input, call.result.dtype)
    return call.op("CumSum", x, call.scalar_int(dim)) if input.dim() else x


@handles("var", "std")
def variance(
    call: Call,
    input: Tensor,
    dim: Axes | bool = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: int | float | None = None,
) -> Written:
    """Writes the mean of the squared distances from the mean, and for ``std`` its square root."""
    is_flag = isinstance(dim, bool)  # x.var(unbiased)
    unbiased = bool(dim) if is_flag else unbiased
    axes = (None if is_flag else _list(dim)) or list(range(input.dim()))
    sizes = [input.shape[axis] for axis in axes] if input.dim() else []
    if not sizes or not all(isinstance(one, int) for one in sizes):
        return REFUSED
    count = math.prod(sizes)
    freedom = count - (correction if correction is not None else int(unbiased))
    if freedom <= 0:
        return REFUSED
    x = call.value(input)
    centred = call.op("Sub", x, reduced(call, "ReduceMean", x, axes, keepdim=True))
    squares = call.op("Mul", centred, centred)
    if freedom == count:
        result = reduced(call, "ReduceMean", squares, axes, keepdim=keepdim)
    else:
        summed = reduced(call, "ReduceSum", squares, axes, keepdim=keepdim)
        result = call.op("Div", summed, call.number(freedom, input.dtype))
    return call.op("Sqrt", result) if call.function.__name__ == "std" else result


@handles("linalg.vector_norm")
def vector_norm(
    call: Call,
    x: Tensor,
    ord: float = 2,
    dim: Axes = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Written:
    """Writes ReduceL2 or ReduceL1, or the formula of another norm."""
    if not x.is_floating_point() or not x.dim() or not isinstance(ord, (int, float)):
        return REFUSED
    return p_norm(call, call.value(x, dtype), ord, _list(dim), x.dtype if dtype is None else dtype, keepdim=keepdim)


@handles("norm")
def norm(
    call: Call,
    input: Tensor,
    p: float | str | None = "fro",
    dim: Axes = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Written:
    """Writes the norm of the elements along the axes, as `vector_norm`."""
    order = 2.0 if p in ("fro", None) else p
    return REFUSED if isinstance(order, str) else vector_norm(call, input, order, dim, keepdim, dtype=dtype)


@handles("linalg.norm", "linalg.matrix_norm")
def linalg_norm(
    call: Call,
    A: Tensor,
    ord: float | str | None = None,
    dim: Axes = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Written:
    """Writes the norm of vectors, or the Frobenius norm of matrices."""
    axes = _list(dim)
    if axes is None and name_of(call.function) == "linalg.matrix_norm":
        axes = [-2, -1]
    is_of_vectors = axes is not None and len(axes) == 1
    if ord not in (None, "fro") and (not is_of_vectors or isinstance(ord, str)):
        return REFUSED
    order = 2.0 if ord is None or isinstance(ord, str) else ord
    return vector_norm(call, A, order, axes, keepdim, dtype=dtype)


def p_norm(
    call: Call, x: ir.Value, p: float, axes: Sequence[int] | None, dtype: torch.dtype, *, keepdim: bool
) -> ir.Value:
    """Writes ``sum(|x| ** p) ** (1 / p)``, its limit for an infinite ``p``, for 0 the number of elements but zeros."""
    if p in (1, 2):
        return reduced(call, f"ReduceL{int(p)}", x, axes, keepdim=keepdim)
    if p == 0:
        counted = call.op("Cast", call.op("Cast", x, to=int(ir.DataType.BOOL)), to=int(onnx_type(dtype)))
        return reduced(call, "ReduceSum", counted, axes, keepdim=keepdim)
    sizes = call.op("Abs", x)
    if math.isinf(p):
        return reduced(call, "ReduceMax" if p > 0 else "ReduceMin", sizes, axes, keepdim=keepdim)
    powers = call.op("Pow", sizes, call.number(p, dtype))
    return call.op("Pow", reduced(call, "ReduceSum", powers, axes, keepdim=keepdim), call.number(1.0 / p, dtype))
