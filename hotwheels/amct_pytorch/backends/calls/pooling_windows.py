"""Windows of adaptive poolings; those of several sizes, which AveragePool does not have, as constant matrices."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .same_size import stays


def window_shares(count: int, size: int, dtype: torch.dtype) -> Tensor:
    """Returns the share of each of ``count`` elements in the mean of each of ``size`` windows, [size, count]."""
    shares = torch.zeros(size, count, dtype=dtype)
    for window in range(size):
        start, stop = window * count // size, -(-(window + 1) * count // size)
        shares[window, start:stop] = 1 / (stop - start)
    return shares


def even_windows(before: Sequence[Any], after: Sequence[Any]) -> tuple[list[int], list[int]] | None:
    """Returns kernel and strides of an adaptive pooling; None if its windows differ in size or distance."""
    found = [_even_window(size, count) for size, count in zip(before, after, strict=True)]
    known = [one for one in found if one is not None]
    return ([size for size, _ in known], [stride for _, stride in known]) if len(known) == len(found) else None


def _even_window(size: Any, count: Any) -> tuple[int, int] | None:
    if stays(size, count):
        return 1, 1
    if not isinstance(size, int) or not isinstance(count, int) or not count:
        return None
    starts = [number * size // count for number in range(count)]
    extents = {-(-(number + 1) * size // count) - start for number, start in enumerate(starts)}
    strides = {after - before for before, after in itertools.pairwise(starts)}
    if len(extents) > 1 or len(strides) > 1:
        return None
    extent = extents.pop()
    return extent, strides.pop() if strides else extent
