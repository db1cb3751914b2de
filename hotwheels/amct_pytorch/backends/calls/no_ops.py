"""Calls that return their tensor unchanged; exported files have no node for them.

In real_quant they must not turn an accumulator or a float32 into a float64, since the file does not have them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.accumulator import Accumulator, Deferred
from ...nn.call import MethodCall
from ...nn.exported_form import as_exported
from .masked_softmax import is_unmasked, masked_scores

# Copies and conversions: between the roundings to two grids a float has no type (spec 10.4).
_COPIES = frozenset({"clone", "detach", "float", "double", "half", "bfloat16", "to", "type", "type_as", "cpu", "cuda"})
_RESHAPES = frozenset({"reshape", "view", "flatten", "squeeze", "expand", "expand_as", "view_as", "reshape_as"})
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
NO_OP_MODULES = (nn.Identity, *_DROPOUTS)
_FUNCTIONS = frozenset({torch.clone, torch.detach, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout})
_RESHAPE_FUNCTIONS = frozenset({torch.reshape, torch.flatten, torch.squeeze})


def handed_on(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any] | None:
    """Returns a tuple with the argument that ``function(*args)`` returns unchanged; None for all other calls."""
    if not args:
        return None
    first = args[0]
    if function is operator.getitem and isinstance(first, (tuple, list)):
        return (first[args[1]],)
    if not isinstance(first, Tensor) or not first.is_floating_point():
        return None
    if isinstance(function, MethodCall) and function.name == "contiguous":
        return (_laid_out(first, function, args[1:], kwargs),)
    return (first,) if is_copy(function, args, kwargs) or _keeps_shape(function, args, kwargs) else None


def _laid_out(x: Tensor, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    if isinstance(x, Accumulator):
        return Accumulator.of(function(x.integers, *args, **kwargs), x.step)
    y: Tensor = function(x, *args, **kwargs)
    return y


def is_copy(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the call copies or converts its first argument, whatever the shape; other arguments may be nodes."""
    if isinstance(function, MethodCall):
        return function.name in _COPIES and not _makes_others(function.name, args, kwargs)
    if function is getattr:
        return bool(args[1] == "data")
    if function is masked_scores:
        return is_unmasked(**kwargs)
    return isinstance(function, NO_OP_MODULES) or function in _FUNCTIONS


def _makes_others(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the result is no floating tensor: integers, or the name of a type."""
    if name == "type" and len(args) == 1 and not kwargs:
        return True
    types = [one.dtype if isinstance(one, Tensor) else one for one in (*args[1:], *kwargs.values())]
    return any(isinstance(one, torch.dtype) and not one.is_floating_point for one in types)


def _keeps_shape(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    is_reshape = function.name in _RESHAPES if isinstance(function, MethodCall) else function in _RESHAPE_FUNCTIONS
    if not is_reshape and not isinstance(function, nn.Flatten):
        return False
    first = args[0].carrier if isinstance(args[0], Deferred) else args[0]
    return bool(as_exported(function)(first, *args[1:], **kwargs).shape == first.shape)
