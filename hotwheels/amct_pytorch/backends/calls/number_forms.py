"""torch.tensor and its like for sizes and for tensors of one element, which these functions would copy as numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .leaves import leaves, map_leaves

_SIZES = (torch.SymInt, torch.SymFloat)


def _tensor(data: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    return _joined(data, dtype)


def _as_tensor(data: Any, dtype: torch.dtype | None = None, device: Any = None) -> Any:  # noqa: ARG001
    return NotImplemented if isinstance(data, Tensor) else _joined(data, dtype)


def _new_tensor(self: Tensor, data: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    return _joined(data, dtype or self.dtype)


def _joined(data: Any, dtype: torch.dtype | None) -> Any:
    """Returns ``data``, nested lists of numbers, sizes and tensors of one element, as one tensor."""
    parts, shape = list(leaves(data)), _shape(data)
    tensors = [one for one in parts if isinstance(one, Tensor)]
    if shape is None or not (tensors or any(isinstance(one, _SIZES) for one in parts)):
        return NotImplemented
    if any(one.dim() for one in tensors):
        return NotImplemented
    dtype = dtype or torch.tensor(map_leaves(_zero, data)).dtype
    scalars = [one.to(dtype) if isinstance(one, Tensor) else torch.scalar_tensor(one, dtype=dtype) for one in parts]
    return torch.stack(scalars).reshape(shape) if shape else scalars[0]


def _shape(data: Any) -> list[int] | None:
    """Returns the shape of nested lists; None if their lengths differ."""
    if not isinstance(data, (tuple, list)):
        return []
    inner = [_shape(one) for one in data]
    if not inner or any(one is None or one != inner[0] for one in inner):
        return None
    assert inner[0] is not None
    return [len(data), *inner[0]]


def _zero(leaf: Any) -> Any:
    """Returns a value without data of the type of ``leaf``."""
    if isinstance(leaf, Tensor):
        return torch.zeros((), dtype=leaf.dtype)
    return type(leaf)(0) if isinstance(leaf, (bool, int, float)) else 0 if isinstance(leaf, torch.SymInt) else 0.0


NUMBER_FORMS: dict[str, Callable[..., Any]] = {"tensor": _tensor, "as_tensor": _as_tensor, "new_tensor": _new_tensor}
