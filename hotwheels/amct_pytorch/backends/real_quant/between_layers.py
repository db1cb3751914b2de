"""BetweenLayers: how real_quant calls functions that are no quantized layers (spec 10.4), on both back-ends."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch

from ...core.accumulator import Accumulator, Deferred
from ...nn.double_call import call_in_double, cast_floats, defer
from ...ops.registry import Registry
from ..calls.no_ops import handed_on
from .float_products import call_float_product, is_float_product
from .known import is_known, op_of

_METADATA = frozenset({"shape", "device", "ndim"})  # of a tensor whose values are not needed for them


@functools.cache
def _registry() -> Registry:
    """Returns the registry of the packaged capacity file, since users' rows do not change what an operation is."""
    return Registry()


class BetweenLayers:
    """Calls functions, methods and modules with the results that the exported file computes.

    Functions of torch and of this package run in float64. Values become float32 before a user's function,
    and around weighted and CUBE operations that are not quantized.
    """

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Returns ``function(*args, **kwargs)``; a Tensor method comes as a `MethodCall`."""
        if function is getattr and isinstance(args[0], Deferred) and args[1] in _METADATA:
            return getattr(args[0].carrier, args[1])
        if function is operator.getitem and type(args[0]) in (tuple, list) and type(args[1]) is int:
            found = args[0][args[1]]
            if isinstance(found, Deferred) and not isinstance(found, Accumulator):
                return found
        if not is_known(function):
            return _call_outside(function, args, kwargs)
        same = handed_on(function, args, kwargs)
        if same is not None:
            return same[0]
        op = op_of(function, _registry())
        if is_float_product(function, op):
            return call_float_product(function, args, kwargs)
        if getattr(function, "__name__", getattr(function, "name", "")) in ("nan_to_num", "nan_to_num_"):
            args, kwargs = _with_limits(*args, **kwargs)
        deferred = defer(function, args, kwargs, op)
        return call_in_double(function, args, kwargs, op) if deferred is None else deferred

    def gives_single(self, function: Callable[..., Any]) -> bool:
        """Whether float32 results of ``function`` are float32 values in the exported file too."""
        return not is_known(function) or is_float_product(function, op_of(function, _registry()))


def _with_limits(x: Any, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments of nan_to_num with the limits of float32, which it puts in the place of infinities."""
    given = dict(zip(("nan", "posinf", "neginf"), args, strict=False)) | kwargs
    most = torch.finfo(torch.float32).max
    limits = {name: value for name, value in (("posinf", most), ("neginf", -most)) if given.get(name) is None}
    return (x,), given | limits


def _call_outside(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls a non-torch function in float32; returns the original argument if the function hands the argument back."""
    given, given_by_name = cast_floats((args, kwargs), torch.float32)
    result = function(*given, **given_by_name)
    pairs = ((one, original) for one, original in zip(given, args, strict=True) if isinstance(one, torch.Tensor))
    return next((original for one, original in pairs if one is result), result)
