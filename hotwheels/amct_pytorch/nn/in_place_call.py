"""Calls of elementwise operations that write their result over an input that has no other reader.

A new tensor takes as much time as the operation: its memory is fetched before it is written. The kernels are torch's,
the same as without ``out``, so the values are equal bit for bit.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import native
from .module_hooks import is_hooked

_Unary = Callable[[Tensor], Tensor]


def _relu6(x: Tensor) -> Tensor:
    return F.relu6(x, inplace=True)


def _silu(x: Tensor) -> Tensor:
    return F.silu(x, inplace=True)


def _hardswish(x: Tensor) -> Tensor:
    return F.hardswish(x, inplace=True)


def _hardsigmoid(x: Tensor) -> Tensor:
    return F.hardsigmoid(x, inplace=True)


_MODULES: Mapping[type[nn.Module], _Unary] = {
    nn.ReLU: torch.relu_,
    nn.ReLU6: _relu6,
    nn.SiLU: _silu,
    nn.Hardswish: _hardswish,
    nn.Hardsigmoid: _hardsigmoid,
    nn.Sigmoid: torch.sigmoid_,
}
_FUNCTIONS: Mapping[Callable[..., Any], _Unary] = {
    torch.relu: torch.relu_,
    F.relu: torch.relu_,
    F.relu6: _relu6,
    F.silu: _silu,
    F.hardswish: _hardswish,
    F.hardsigmoid: _hardsigmoid,
    torch.sigmoid: torch.sigmoid_,
}
_SUMS: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    operator.add: torch.add,
    torch.add: torch.add,
    operator.mul: torch.mul,
    torch.mul: torch.mul,
}


def call_over(owned: Tensor, function: Callable[..., Any], args: tuple[Any, ...]) -> Tensor | None:
    """Returns ``function(*args)``, written over ``owned``; None, with nothing changed, if that is not possible.

    Call it without gradients only.

    Args:
      owned: A dense float32 tensor, one of ``args``, that has no reader besides this call.
      function: A function, or a module; of those with hooks, which see input and result, none is called.
      args: All arguments of the call.
    """
    if isinstance(function, nn.Module):
        over = _MODULES.get(type(function))
        if over is None or is_hooked(function) or "forward" in vars(function):
            return None
        return over(owned) if len(args) == 1 else None
    if len(args) == 1:
        unary = _FUNCTIONS.get(function)
        return None if unary is None else unary(owned)
    binary = _SUMS.get(function) if len(args) == 2 else None
    if binary is None or not all(isinstance(one, Tensor) and one.dtype is torch.float32 for one in args):
        return None
    other = args[1] if args[0] is owned else args[0]
    if other.device != owned.device or not _fits_into(other.shape, owned.shape):
        return None
    # The result has the strides that torch would choose, so that later operations see the same layout.
    is_alike = other.stride() == owned.stride() or (other.is_contiguous() and owned.is_contiguous())
    return binary(*args, out=owned) if is_alike else None


def call_over_with_gradient(owned: Tensor, function: Callable[..., Any], args: tuple[Any, ...]) -> Tensor | None:
    """Returns ``function(*args)`` like `call_over`, with its gradient; for ReLU and sums, which do not save inputs."""
    if isinstance(function, nn.Module):
        is_plain = type(function) is nn.ReLU and not is_hooked(function) and "forward" not in vars(function)
        return torch.relu_(owned) if is_plain and len(args) == 1 else None
    if len(args) == 1:
        return torch.relu_(owned) if function in (torch.relu, F.relu) else None
    if len(args) != 2 or function not in (operator.add, torch.add):
        return None
    other = args[1] if args[0] is owned else args[0]
    is_alike = isinstance(other, Tensor) and other.shape == owned.shape and native.handles(owned, other)
    return owned.add_(other) if is_alike else None


def _fits_into(shape: torch.Size, whole: torch.Size) -> bool:
    """Whether a tensor of ``shape`` broadcast against one of the shape ``whole`` gives the latter shape."""
    pairs = zip(reversed(shape), reversed(whole), strict=False)
    return len(shape) <= len(whole) and all(one in (1, size) for one, size in pairs)
