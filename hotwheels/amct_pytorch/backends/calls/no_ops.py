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
from .leaves import leaves
from .masked_softmax import is_unmasked, masked_scores

# Copies and conversions: between the roundings to two grids a float has no type (spec 10.4).
_COPIES = frozenset({"clone", "detach", "float", "double", "half", "bfloat16", "to", "type", "type_as", "cpu", "cuda"})
_RESHAPES = frozenset(
    {"reshape", "view", "flatten", "squeeze", "expand", "expand_as", "view_as", "reshape_as"}
    | {"broadcast_to", "unflatten", "repeat", "tile"}
)
_UNARY_PLUS = frozenset({"pos", "__pos__", "positive", "real"})
_PERMUTES = frozenset({"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis"})
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
NO_OP_MODULES = (nn.Identity, *_DROPOUTS)
_FUNCTIONS = frozenset({torch.clone, torch.detach, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout})
_RESHAPE_FUNCTIONS = frozenset(
    {torch.reshape, torch.flatten, torch.squeeze, torch.broadcast_to, torch.unflatten, torch.tile}
    | {torch.atleast_1d, torch.atleast_2d, torch.atleast_3d}
)
_CUTS = frozenset({"chunk", "split", "split_with_sizes", "tensor_split", "hsplit", "vsplit", "dsplit"})


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
    if _name(function) in _CUTS:
        return ((first,),) if _is_one_part(function, args, kwargs) else None
    is_same = any(rule(function, args, kwargs) for rule in (is_copy, _keeps_shape, _keeps_axes, _keeps_places))
    return (first,) if is_same else None


def _laid_out(x: Tensor, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    if isinstance(x, Accumulator):
        return Accumulator.of(function(x.integers, *args, **kwargs), x.step)
    y: Tensor = function(x, *args, **kwargs)
    return y


def is_copy(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the call copies or converts its first argument, whatever the shape; other arguments may be nodes."""
    if function is operator.getitem or function == MethodCall("__getitem__"):
        return takes_all(args[1])
    if isinstance(function, MethodCall):
        return function.name in _COPIES and not _makes_others(function.name, args, kwargs)
    if function is getattr:
        return args[1] in ("data", "real")
    if function is masked_scores:
        return is_unmasked(**kwargs)
    return isinstance(function, NO_OP_MODULES) or function in _FUNCTIONS


def takes_all(index: Any) -> bool:
    """Whether ``x[index]`` is the tensor ``x`` itself, as in ``x[:, 0:, ...]``, whatever its sizes."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(one is Ellipsis or (isinstance(one, slice) and not cuts(one)) for one in parts)


def cuts(part: slice) -> bool:
    """Whether a slice may leave elements out, or turns their order."""
    starts_at_zero = part.start is None or (type(part.start) is int and part.start == 0)
    has_all_steps = part.step is None or (type(part.step) is int and part.step == 1)
    return not starts_at_zero or part.stop is not None or not has_all_steps


def _makes_others(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the result is no floating tensor: integers, or the name of a type."""
    if name == "type" and len(args) == 1 and not kwargs:
        return True
    types = [one.dtype if isinstance(one, Tensor) else one for one in (*args[1:], *kwargs.values())]
    return any(isinstance(one, torch.dtype) and not one.is_floating_point for one in types)


def _keeps_shape(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    is_reshape = function.name in _RESHAPES if isinstance(function, MethodCall) else function in _RESHAPE_FUNCTIONS
    if not is_reshape and not isinstance(function, (nn.Flatten, nn.Unflatten)):
        return False
    first = args[0].carrier if isinstance(args[0], Deferred) else args[0]
    return bool(as_exported(function)(first, *args[1:], **kwargs).shape == first.shape)


def _keeps_axes(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the call permutes axes and moves none of them, as ``permute(0, 1, 2)``."""
    if _name(function) not in _PERMUTES:
        return False
    sizes = torch.empty(tuple(range(1, args[0].dim() + 1)), device="meta")  # a different size for each axis
    return bool(function(sizes, *args[1:], **kwargs).shape == sizes.shape)


def _keeps_places(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the call turns or rolls by nothing, as ``roll(0)``, ``flip([])`` and ``rot90(0)``, or is a unary plus."""
    name = _name(function)
    given = [one for one in leaves((args[1:], kwargs)) if one is not None]
    if name == "flip":
        return not given
    if name == "rot90":
        return args[1:2] == (0,) or kwargs.get("k") == 0
    if name == "roll":
        shifts = list(leaves(args[1] if len(args) > 1 else kwargs["shifts"]))
        return all(type(one) is int and one == 0 for one in shifts)
    return name in _UNARY_PLUS


def _is_one_part(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the call cuts the tensor into one part, the tensor itself."""
    first = args[0].carrier if isinstance(args[0], Deferred) else args[0]
    return len(function(torch.empty(first.shape, device="meta"), *args[1:], **kwargs)) == 1


def _name(function: Callable[..., Any]) -> str:
    return function.name if isinstance(function, MethodCall) else getattr(function, "__name__", "")
