"""Agreement between the processes of a torch.distributed run; a single process gets its own values back."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor

from ..core.statistics.range_statistics import RangeStatistics
from ..torch_private import joins_uneven_inputs


def is_distributed() -> bool:
    """Whether this process is one of several."""
    return process_count() > 1


def process_count() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Number of this process among those that train together, from 0."""
    return dist.get_rank() if is_distributed() else 0


def merge_statistics(statistics: RangeStatistics) -> RangeStatistics:
    """Returns the statistics of all processes together, equal on each; every process must call it."""
    if not is_distributed():
        return statistics
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, statistics)
    merged: RangeStatistics = parts[0]
    for other in parts[1:]:  # in the order of the ranks, so that every process rounds alike
        merged.merge(other)
    return merged


def average(values: Tensor) -> Tensor:
    """Returns the mean over all processes in a new tensor; every process must call it.

    Inside ``DistributedDataParallel.join`` processes that have no more inputs do not call it. There the values are
    returned as they are: the same gradients have kept them equal on all processes.
    """
    if joins_uneven_inputs():
        return values
    return _reduce(values, dist.ReduceOp.SUM) / dist.get_world_size() if is_distributed() else values


def total(values: Tensor) -> Tensor:
    """Returns the sum over all processes in a new tensor; every process must call it."""
    return _reduce(values, dist.ReduceOp.SUM) if is_distributed() else values


def maximum(values: Tensor) -> Tensor:
    """Returns the elementwise maximum over all processes in a new tensor; every process must call it."""
    return _reduce(values, dist.ReduceOp.MAX) if is_distributed() else values


def _reduce(values: Tensor, operation: Any) -> Tensor:
    result = values.detach().clone()
    dist.all_reduce(result, op=operation)
    return result
