"""Distances, similarities and poolings of powers, written as norms, products and sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_MOST_DIFFERENCES = 1 << 22  # elements; more distances by p=2 are computed by a product of matrices, as torch does
_MOST_ROWS = 25  # torch computes exact differences up to here


def _cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Any:
    x1, x2 = torch.broadcast_tensors(x1, x2)  # type: ignore[no-untyped-call]
    lengths = [torch.linalg.vector_norm(one, 2, dim, True).clamp(min=eps) for one in (x1, x2)]
    return ((x1 / lengths[0]) * (x2 / lengths[1])).sum(dim)


def _pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
    return torch.linalg.vector_norm(x1 - x2 + eps, p, -1, keepdim)


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary") -> Any:
    rows = (x1.shape[-2], x2.shape[-2])
    is_product = p == 2 and compute_mode == "use_mm_for_euclid_dist"
    if p == 2 and compute_mode.endswith("if_necessary") and all(isinstance(one, int) for one in rows):
        is_product = max(rows) > _MOST_ROWS and rows[0] * rows[1] * int(x1.shape[-1]) > _MOST_DIFFERENCES
    if not is_product:
        return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)
    squares = [(one * one).sum(-1, True) for one in (x1, x2)]
    found = squares[0] + squares[1].transpose(-1, -2) - torch.matmul(x1, x2.transpose(-1, -2)) * 2
    return found.clamp(min=0).sqrt()


def _dist(input: Tensor, other: Tensor, p: float = 2) -> Any:
    return torch.linalg.vector_norm(input - other, p)


def _lp_pool(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False, *, axes: int
) -> Any:
    """Returns the norm of each window: torch's formula, which also takes sums that an odd power makes negative."""
    kernel = (kernel_size,) * axes if isinstance(kernel_size, int) else tuple(kernel_size)
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[axes]
    size = 1
    for one in kernel:
        size *= one
    means = pool(input.pow(norm_type), kernel, stride, 0, ceil_mode)
    return (torch.sign(means) * F.relu(means.abs()) * size).pow(1.0 / norm_type)


DISTANCE_FORMS: Mapping[str, Callable[..., Any]] = {
    "F.cosine_similarity": _cosine_similarity,
    "cosine_similarity": _cosine_similarity,
    "F.pairwise_distance": _pairwise_distance,
    "pairwise_distance": _pairwise_distance,
    "cdist": _cdist,
    "dist": _dist,
    "F.lp_pool1d": lambda *args, **kwargs: _lp_pool(*args, **kwargs, axes=1),
    "F.lp_pool2d": lambda *args, **kwargs: _lp_pool(*args, **kwargs, axes=2),
    "F.lp_pool3d": lambda *args, **kwargs: _lp_pool(*args, **kwargs, axes=3),
}
