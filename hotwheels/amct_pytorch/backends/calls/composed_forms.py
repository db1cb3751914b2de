"""Functions that are written as other functions of torch: torch's exporter cannot write them, or does it wrongly.

The FX path's writer and the export of the dynamic path run these forms in place of the functions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .cell_forms import CELL_FORMS
from .distance_forms import DISTANCE_FORMS
from .function_names import is_in_place_name, name_of
from .matrix_forms import MATRIX_FORMS
from .number_forms import NUMBER_FORMS
from .rank_forms import RANK_FORMS
from .window_forms import WINDOW_FORMS

Form = Callable[..., Any]


def composed_form(function: Callable[..., Any]) -> Form | None:
    """Returns a callable with the arguments of ``function`` that calls other functions of torch; None for others.

    It returns NotImplemented for arguments that it does not cover. Changes in place have no form.
    """
    if is_in_place_name(getattr(function, "__name__", "")):
        return None
    return _FORMS.get(name_of(function))


def _diff(input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None) -> Any:
    parts = [one for one in (prepend, input, append) if one is not None]
    x = torch.cat(parts, dim) if len(parts) > 1 else input
    for _ in range(n):
        x = x.narrow(dim, 1, x.shape[dim] - 1) - x.narrow(dim, 0, x.shape[dim] - 1)
    return x


def _rot90(input: Tensor, k: int = 1, dims: Any = (0, 1)) -> Tensor:
    first, second = dims
    turns = k % 4
    if turns == 2:
        return input.flip((first, second))
    if turns:
        return input.transpose(first, second).flip(first if turns == 1 else second)
    return input.clone()


def _cumprod(input: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    """Multiplies by what lies 1, 2, 4, ... elements in front."""
    x = input.to(dtype or (input.dtype if input.is_floating_point() else torch.int64))
    if not x.dim():
        return x.clone()
    size, distance = int(x.shape[dim]), 1  # a dynamic axis becomes static
    while distance < size:
        head = torch.ones_like(x.narrow(dim, 0, distance))
        x = x * torch.cat([head, x.narrow(dim, 0, size - distance)], dim)
        distance *= 2
    return x


def _any(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    counts = (input != 0).to(torch.int32)
    return (counts.amax(() if dim is None else dim, keepdim) if counts.dim() else counts) > 0


def _all(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    counts = (input != 0).to(torch.int32)
    return (counts.amin(() if dim is None else dim, keepdim) if counts.dim() else counts) > 0


def _logaddexp(input: Tensor, other: Tensor) -> Tensor:
    larger = torch.maximum(input, other)
    return larger + torch.log1p(torch.exp(-(input - other).abs()))


def _signbit(input: Tensor) -> Tensor:
    """Whether the sign is negative; that of a zero shows in its reciprocal."""
    if not input.is_floating_point():
        return input < 0
    return torch.where(input == 0, 1 / input, input) < 0


def _atan2(input: Tensor, other: Tensor) -> Tensor:
    y, x = (one if one.is_floating_point() else one.float() for one in (input, other))
    half = torch.atan(y / torch.where(x == 0, 1.0, x))
    is_below = _signbit(y)
    behind = half + torch.where(is_below, -math.pi, math.pi)
    above = torch.where(
        y == 0, torch.where(_signbit(x), behind, half), torch.where(is_below, -math.pi / 2, math.pi / 2)
    )
    return torch.where(x == 0, above, torch.where(x < 0, behind, half))


def _repeat_interleave(
    input: Tensor, repeats: int | Tensor, dim: int | None = None, *, output_size: int | None = None
) -> Any:
    if isinstance(repeats, Tensor) or output_size is not None:
        return NotImplemented  # has a handler
    x, dim = (input.flatten(), 0) if dim is None else (input, dim % input.dim())
    sizes = [-1] * (x.dim() + 1)
    sizes[dim + 1] = repeats
    return x.unsqueeze(dim + 1).expand(sizes).flatten(dim, dim + 1)


def _shifted_right(input: Tensor, other: Any) -> Tensor:
    return torch.div(input, 2**other, rounding_mode="floor")


def _shifted_left(input: Tensor, other: Any) -> Any:
    return input * 2**other


def _take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    if dim is None:
        return input.flatten().gather(0, indices.flatten())
    dim %= input.dim()
    sizes = [max(a, b) for a, b in zip(input.shape, indices.shape, strict=True)]
    own, asked = ([*sizes[:dim], one.shape[dim], *sizes[dim + 1 :]] for one in (input, indices))
    return input.expand(own).gather(dim, indices.expand(asked))


def _var_mean(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    return torch.var(input, *args, **kwargs), _mean_beside(input, *args, **kwargs)


def _std_mean(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    return torch.std(input, *args, **kwargs), _mean_beside(input, *args, **kwargs)


def _mean_beside(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The mean over the axes that ``var`` takes: ``(dim, unbiased, keepdim)`` or ``(unbiased)``."""
    dim = args[0] if args and not isinstance(args[0], bool) else kwargs.get("dim")
    keepdim = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    return input.mean() if dim is None else input.mean(dim, keepdim)


def _aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    axes = () if dim is None else dim
    return torch.return_types.aminmax((input.amin(axes, keepdim), input.amax(axes, keepdim)))


def _kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    return torch.return_types.kthvalue(_at_rank(input, k - 1, dim, keepdim))


def _median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None:
        flat = input.flatten()
        return _at_rank(flat, (flat.shape[0] - 1) // 2, 0, False)[0]
    return torch.return_types.median(_at_rank(input, (input.shape[dim] - 1) // 2, dim, keepdim))


def _at_rank(x: Tensor, rank: Any, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """Returns the element number ``rank`` of the sorted axis, and its place."""
    values, places = torch.sort(x, dim)
    values, places = values.narrow(dim, rank, 1), places.narrow(dim, rank, 1)
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


def _cummax(input: Tensor, dim: int) -> Any:
    return torch.return_types.cummax(_running(input, dim, torch.maximum))


def _cummin(input: Tensor, dim: int) -> Any:
    return torch.return_types.cummin(_running(input, dim, torch.minimum))


def _running(x: Tensor, dim: int, better: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the best element so far along ``dim``, and the last place of it."""
    values = _scanned(x, dim, better)
    shape = [1] * x.dim()
    shape[dim] = -1
    places = torch.arange(int(x.shape[dim]), device=x.device).reshape(shape)
    return values, _scanned(torch.where(x == values, places, torch.zeros_like(places)), dim, torch.maximum)


def _scanned(x: Tensor, dim: int, better: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Compares with what lies 1, 2, 4, ... elements in front."""
    size, distance = int(x.shape[dim]), 1  # a dynamic axis becomes static
    while distance < size:
        rest = better(x.narrow(dim, distance, size - distance), x.narrow(dim, 0, size - distance))
        x = torch.cat([x.narrow(dim, 0, distance), rest], dim)
        distance *= 2
    return x


def _searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: Any = None,
    **others: Any,
) -> Any:
    """Counts the boundaries below the value, or at most the value."""
    if sorted_sequence.dim() != 1 or not isinstance(input, Tensor) or others:
        return NotImplemented
    x = input.unsqueeze(-1)
    is_below = sorted_sequence <= x if right or side == "right" else sorted_sequence < x
    kind = torch.int32 if out_int32 else torch.int64
    return is_below.to(kind).sum(-1, dtype=kind)


def _count_nonzero(input: Tensor, dim: Any = None) -> Tensor:
    return (input != 0).sum() if dim is None else (input != 0).sum(dim)


def _nansum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    x = torch.where(torch.isnan(input), 0.0, input)
    return x.sum(dtype=dtype) if dim is None else x.sum(dim, keepdim, dtype=dtype)


def _isclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    near = (input == other) | ((input - other).abs() <= atol + rtol * other.abs()) & torch.isfinite(other)
    return near | (torch.isnan(input) & torch.isnan(other)) if equal_nan else near


def _isfinite(input: Tensor) -> Tensor:
    return input.abs() < math.inf if input.is_floating_point() else torch.ones_like(input, dtype=torch.bool)


def _xlogy(input: Any, other: Any) -> Tensor:
    return torch.where(input == 0, 0.0, input * torch.log(_tensor(other)))


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(x)


def _trace(input: Tensor) -> Tensor:
    return input.diagonal().sum()


def _bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    result = torch.einsum("...i,oij,...j->...o", input1, weight, input2)
    return result if bias is None else result + bias


def _inner(input: Tensor, other: Tensor) -> Tensor:
    if not input.dim() or not other.dim():
        return input * other
    rows = torch.matmul(input.reshape(-1, input.shape[-1]), other.reshape(-1, other.shape[-1]).transpose(0, 1))
    return rows.reshape(*input.shape[:-1], *other.shape[:-1])


def _dstack(tensors: Any) -> Tensor:
    return torch.cat([_at_least_3d(one) for one in tensors], 2)


def _at_least_3d(x: Tensor) -> Tensor:
    if x.dim() >= 3:
        return x
    return x.unsqueeze(-1) if x.dim() == 2 else x.reshape(1, -1, 1)


def _column_stack(tensors: Any) -> Tensor:
    return torch.cat([one if one.dim() >= 2 else one.reshape(-1, 1) for one in tensors], 1)


def _vstack(tensors: Any) -> Tensor:
    return torch.cat([one if one.dim() >= 2 else one.reshape(1, -1) for one in tensors], 0)


_FORMS: dict[str, Form] = {
    **CELL_FORMS,
    **DISTANCE_FORMS,
    **MATRIX_FORMS,
    **NUMBER_FORMS,
    **RANK_FORMS,
    **WINDOW_FORMS,
    "diff": _diff,
    "rot90": _rot90,
    "cumprod": _cumprod,
    "any": _any,
    "all": _all,
    "logaddexp": _logaddexp,
    "signbit": _signbit,
    "atan2": _atan2,
    "arctan2": _atan2,
    "repeat_interleave": _repeat_interleave,
    "__rshift__": _shifted_right,
    "bitwise_right_shift": _shifted_right,
    "__lshift__": _shifted_left,
    "bitwise_left_shift": _shifted_left,
    "take_along_dim": _take_along_dim,
    "var_mean": _var_mean,
    "std_mean": _std_mean,
    "aminmax": _aminmax,
    "kthvalue": _kthvalue,
    "median": _median,
    "cummax": _cummax,
    "cummin": _cummin,
    "searchsorted": _searchsorted,
    "bucketize": lambda input, boundaries, **settings: _searchsorted(boundaries, input, **settings),
    "logcumsumexp": lambda input, dim: _scanned(input, dim, torch.logaddexp),
    "count_nonzero": _count_nonzero,
    "nansum": _nansum,
    "isclose": _isclose,
    "isfinite": _isfinite,
    "xlogy": _xlogy,
    "trace": _trace,
    "F.bilinear": _bilinear,
    "bilinear": _bilinear,
    "inner": _inner,
    "dstack": _dstack,
    "column_stack": _column_stack,
    "vstack": _vstack,
    "row_stack": _vstack,
    "msort": lambda input: torch.sort(input, 0).values,
    "log1p": lambda input: torch.log(input + 1),
    "exp2": lambda input: torch.exp(input * math.log(2)),
    "expm1": lambda input: torch.tanh(input / 2) * (torch.exp(input) + 1),  # exact near 0, as exp(x) - 1 is not
    "erfc": lambda input: 1 - torch.erf(input),
    "hypot": lambda input, other: torch.sqrt(input * input + other * other),
    "rad2deg": lambda input: input * (180 / math.pi),
    "deg2rad": lambda input: input * (math.pi / 180),
    "positive": lambda input: input.clone(),
    "copysign": lambda input, other: torch.where(_signbit(_tensor(other)), -input.abs(), input.abs()),
    "isposinf": lambda input: input == math.inf,
    "isneginf": lambda input: input == -math.inf,
    "lerp": lambda input, end, weight: input + weight * (end - input),
    "float_power": lambda input, exponent: torch.pow(
        input.double(), exponent.double() if isinstance(exponent, Tensor) else float(exponent)
    ),
    "addmv": lambda input, mat, vec, *, beta=1, alpha=1: input * beta + torch.matmul(mat, vec) * alpha,
    "addbmm": lambda input, batch1, batch2, *, beta=1, alpha=1: (
        input * beta + torch.matmul(batch1, batch2).sum(0) * alpha
    ),
    "mv": lambda input, vec: torch.matmul(input, vec),
    "dot": lambda input, tensor: torch.matmul(input, tensor),
    "outer": lambda input, vec2: input.unsqueeze(1) * vec2.unsqueeze(0),
    "ger": lambda input, vec2: input.unsqueeze(1) * vec2.unsqueeze(0),
    "linalg.multi_dot": lambda tensors: functools.reduce(torch.matmul, tensors),
    "chain_matmul": lambda *matrices: functools.reduce(torch.matmul, matrices),
    "heaviside": lambda input, values: torch.where(input == 0, values, torch.where(input > 0, 1, 0).to(input.dtype)),
}
