"""Assignment to an index as a function: a graph needs a new tensor, while ``x[index] = value`` changes ``x``."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def with_item(x: Tensor, index: Any, value: Any) -> Tensor:
    """Returns a copy of ``x`` with ``value`` at ``index``."""
    x = x.clone()
    x[index] = value
    return x
