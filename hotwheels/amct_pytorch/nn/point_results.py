"""The results of an operation on single elements for all points of a grid, kept with the grid."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import requantize
from ..core.params import QuantParams
from ..ops.desc import OpDesc
from .call import LayerCall, MethodCall
from .double_call import call_in_double

_PLAIN = frozenset({int, float, bool, str, type(None)})  # types of settings that are told apart by their texts
_FUNCTIONS = (type(F.silu), type(torch.sigmoid), MethodCall)
_MOST = 4  # operations on one grid


def results_of_points(
    grid: QuantParams, call: LayerCall, op: OpDesc, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device
) -> tuple[Tensor, bool]:
    """Returns the results for the points of ``grid`` in ascending order, float64, and whether one of them is NaN.

    ``args`` and ``kwargs`` are those of the call, whose only tensor is replaced by the points. Results of functions,
    and of modules without parameters and buffers, are kept if numbers and texts are all their settings.
    """
    settings = _settings(call, args, kwargs)
    if settings is None:
        return _compute(grid, call, op, args, kwargs, device)
    kept: dict[Hashable, tuple[Tensor, bool]] = grid.kept.setdefault("results of points", {})
    key = settings, device
    found = kept.get(key)
    if found is None:
        if len(kept) >= _MOST:
            kept.clear()
        found = kept[key] = _compute(grid, call, op, args, kwargs, device)
    return found


def _settings(call: LayerCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable | None:
    """Returns what the results depend on besides the grid; None if that cannot be told."""
    function: Any = call.function
    if isinstance(function, nn.Module):
        if function._parameters or function._buffers or function._modules:
            return None
        own = {name: one for name, one in vars(function).items() if not name.startswith("_")}
        function = type(function)
    elif isinstance(function, _FUNCTIONS):
        own = {}
    else:
        return None
    numbers = [own, *(one for one in args if not isinstance(one, Tensor)), _without_tensors(kwargs)]
    if not all(type(one) in _PLAIN for one in _leaves(numbers)):
        return None
    return function, repr(numbers)  # a text tells 1 from True, and 0.0 from -0.0


def _without_tensors(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in kwargs.items() if not isinstance(one, Tensor)}


def _leaves(tree: Any) -> Iterator[Any]:
    if type(tree) in (list, tuple):
        for one in tree:
            yield from _leaves(one)
    elif type(tree) is dict:
        yield from _leaves(list(tree.values()))
    else:
        yield tree


def _compute(
    grid: QuantParams, call: LayerCall, op: OpDesc, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device
) -> tuple[Tensor, bool]:
    limits = requantize.limits_of(grid)
    points = torch.arange(limits.low, limits.high + 1, dtype=torch.float32, device=device)
    given = call.substitute(args, kwargs, [requantize.to_real(points, grid)])
    values = call_in_double(call.function, *given, op)
    return values, bool(values.isnan().any())
