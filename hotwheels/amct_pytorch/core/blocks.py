"""Flat pieces of a dense tensor, small enough for several passes over one of them to run in a core's cache."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 1 << 19  # elements; less would cost more in calls than it gains in the cache


def is_dense(x: Tensor) -> bool:
    """Whether ``x`` fills its memory without gaps, in the usual order or channels last."""
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


def block_size(x: Tensor) -> int:
    """Elements worked on at once; an accelerator takes all of them."""
    return BLOCK if x.device.type == "cpu" else max(1, x.numel())


def blocks(x: Tensor) -> tuple[Tensor, ...]:
    """One-dimensional views of a dense tensor, in memory order."""
    return torch.split(torch.as_strided(x, (x.numel(),), (1,)), block_size(x))
