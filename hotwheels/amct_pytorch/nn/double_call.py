"""Calls an operation in float64, as real_quant does with everything that is not a CUBE operation (SPEC 10.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree


def cast_floats(tree: Any, dtype: torch.dtype) -> Any:
    """Returns ``tree`` with every floating tensor in it as a plain tensor of ``dtype``; the rest as it is."""
    return pytree.tree_map(lambda leaf: _cast(leaf, dtype), tree)


def call_in_double(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns ``function(*args, **kwargs)`` with all floating tensors, and a module's own state, in float64."""
    args, kwargs = cast_floats((args, kwargs), torch.float64)
    if not isinstance(function, nn.Module):
        return function(*args, **kwargs)
    state = {**dict(function.named_parameters()), **dict(function.named_buffers())}
    return functional_call(function, cast_floats(state, torch.float64), args, kwargs)


def _cast(leaf: Any, dtype: torch.dtype) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return leaf.as_subclass(Tensor).to(dtype)
    return leaf
