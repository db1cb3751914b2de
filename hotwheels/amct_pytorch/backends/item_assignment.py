"""Assignment to an index as a function: ``x[index] = value`` changes memory, a graph of layers wants a new tensor."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def with_item(x: Tensor, index: Any, value: Any) -> Tensor:
    """Returns a copy of ``x`` with ``value`` in the places ``index``."""
    x = x.clone()
    x[index] = value
    return x
