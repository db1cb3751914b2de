"""Functions of vectors and matrices, and of single elements, written as other functions of torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def _logit(input: Tensor, eps: float | None = None) -> Tensor:
    x = input if eps is None else input.clamp(eps, 1 - eps)
    return torch.log(x / (1 - x))


def _sinc(input: Tensor) -> Tensor:
    angle = input * math.pi
    return torch.where(input == 0, 1.0, torch.sin(angle) / torch.where(input == 0, 1.0, angle))


def _diag(input: Tensor, diagonal: int = 0) -> Any:
    return input.diagonal(diagonal) if input.dim() == 2 else _diag_embed(input, diagonal)


def _diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """Puts the last axis on a diagonal of new axes at the end."""
    if (dim1, dim2) != (-2, -1) or not isinstance(input.shape[-1], int):
        return NotImplemented
    count = int(input.shape[-1])
    places = torch.eye(count, dtype=torch.bool, device=input.device)
    found = torch.where(places, input.unsqueeze(-1), torch.zeros((), dtype=input.dtype, device=input.device))
    if not offset:
        return found
    margins = (offset, 0, 0, offset) if offset > 0 else (0, -offset, -offset, 0)
    return torch.nn.functional.pad(found, margins)


def _block_diag(*tensors: Tensor) -> Any:
    if any(one.dim() != 2 for one in tensors):
        return NotImplemented
    width, before, rows = sum(int(one.shape[1]) for one in tensors), 0, []
    for one in tensors:
        rows.append(torch.nn.functional.pad(one, (before, width - before - int(one.shape[1]))))
        before += int(one.shape[1])
    return torch.cat(rows)


def _kron(input: Tensor, other: Tensor) -> Any:
    if input.dim() != 2 or other.dim() != 2:
        return NotImplemented
    found = input[:, None, :, None] * other[None, :, None, :]
    return found.flatten(2).flatten(0, 1)


def _matrix_power(input: Tensor, n: int) -> Any:
    return functools.reduce(torch.matmul, [input] * n) if n > 0 else NotImplemented


def _cov(input: Tensor, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    if input.dim() != 2 or fweights is not None or aweights is not None or not isinstance(input.shape[1], int):
        return NotImplemented
    centred = input - input.mean(1, True)
    return torch.matmul(centred, centred.transpose(0, 1)) / (input.shape[1] - correction)


def _cross(input: Tensor, other: Tensor, dim: int | None = None) -> Any:
    """Multiplies the axes rolled by one and two; the axis must be given."""
    if dim is None:
        return NotImplemented
    first, second = torch.broadcast_tensors(input, other)  # type: ignore[no-untyped-call]
    turned = [one.roll(-1, dim) for one in (first, second)]
    return (first * turned[1] - turned[0] * second).roll(-1, dim)


def _trapezoid(y: Tensor, x: Any = None, *, dx: float = 1, dim: int = -1) -> Any:
    return NotImplemented if x is not None else _pair_means(y, dx, dim).sum(dim)


def _cumulative_trapezoid(y: Tensor, x: Any = None, *, dx: float = 1, dim: int = -1) -> Any:
    return NotImplemented if x is not None else _pair_means(y, dx, dim).cumsum(dim)


def _pair_means(y: Tensor, dx: float, dim: int) -> Tensor:
    size = y.shape[dim]
    return (y.narrow(dim, 1, size - 1) + y.narrow(dim, 0, size - 1)) * (dx / 2)


def _broadcast_tensors(*tensors: Any) -> Any:
    given: Sequence[Tensor] = tensors[0] if len(tensors) == 1 and not isinstance(tensors[0], Tensor) else tensors
    shape = torch.broadcast_shapes(*(one.shape for one in given))  # type: ignore[no-untyped-call]
    return tuple(one.expand(shape) for one in given)


def _meshgrid(*tensors: Any, indexing: str | None = None) -> Any:
    given: Sequence[Tensor] = tensors[0] if len(tensors) == 1 and not isinstance(tensors[0], Tensor) else tensors
    count = len(given)
    if any(one.dim() > 1 for one in given):
        return NotImplemented
    order = [1, 0, *range(2, count)] if indexing == "xy" and count > 1 else list(range(count))
    lines = [one.reshape(*[-1 if axis == order[at] else 1 for axis in range(count)]) for at, one in enumerate(given)]
    return _broadcast_tensors(*lines)


def _take(input: Tensor, index: Tensor) -> Tensor:
    taken: Tensor = input.flatten()[index]
    return taken


def _at_least(input: Any, *others: Any, rank: int) -> Any:
    if others or not isinstance(input, Tensor):
        return NotImplemented
    if input.dim() >= rank:
        return input.clone()
    shapes = {0: [1] * rank, 1: [1, -1, 1][:rank] if rank > 1 else [-1], 2: [*input.shape, 1]}
    return input.reshape(shapes[input.dim()])


MATRIX_FORMS: Mapping[str, Callable[..., Any]] = {
    "logit": _logit,
    "special.logit": _logit,
    "sinc": _sinc,
    "log2": lambda input: torch.log(input) / math.log(2),
    "log10": lambda input: torch.log(input) / math.log(10),
    "sgn": lambda input: NotImplemented if input.is_complex() else torch.sign(input),
    "ldexp": lambda input, other: input * torch.pow(2.0, other),
    "special.ndtr": lambda input: (torch.erf(input * math.sqrt(0.5)) + 1) * 0.5,
    "diag": _diag,
    "diag_embed": _diag_embed,
    "block_diag": _block_diag,
    "kron": _kron,
    "matrix_power": _matrix_power,
    "linalg.matrix_power": _matrix_power,
    "cov": _cov,
    "cross": _cross,
    "linalg.cross": lambda input, other, *, dim=-1: _cross(input, other, dim),
    "addr": lambda input, vec1, vec2, *, beta=1, alpha=1: input * beta + vec1.unsqueeze(1) * vec2.unsqueeze(0) * alpha,
    "trapezoid": _trapezoid,
    "trapz": _trapezoid,
    "cumulative_trapezoid": _cumulative_trapezoid,
    "broadcast_tensors": _broadcast_tensors,
    "meshgrid": _meshgrid,
    "take": _take,
    "atleast_2d": lambda *tensors: _at_least(*tensors, rank=2),
    "atleast_3d": lambda *tensors: _at_least(*tensors, rank=3),
    "special.log_softmax": lambda input, dim, *, dtype=None: torch.log_softmax(input, dim, dtype=dtype),
    "special.softmax": lambda input, dim, dtype=None: torch.softmax(input, dim, dtype=dtype),
}
