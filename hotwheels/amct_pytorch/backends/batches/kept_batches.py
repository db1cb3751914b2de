"""Calibration inputs that are kept for a refinement."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ...torch_private import pytree
from .batch_store import copied

Batch = tuple[Any, ...]


@contextlib.contextmanager
def keeping(kept: list[Batch], pictures: int, batch: Batch) -> Iterator[None]:
    """Returns a context for one forward: a copy of its inputs ``batch`` joins ``kept`` if the forward succeeds.

    Nothing is kept once ``kept`` has that many ``pictures``.
    """
    if sum(map(_picture_count, kept)) >= pictures:
        yield
        return
    copy = copied(batch)
    yield
    kept.append(copy)


def _picture_count(batch: Batch) -> int:
    """Returns the size of the first axis of the first tensor that has one."""
    sizes = (len(leaf) for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim())
    return next(sizes, 1)
