"""Views as functions: the view of another tensor, and a copy of a tensor in which a view has other values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..real_quant.real_gradient import with_gradient_of
from .item_assignment import with_item

# Methods and attributes whose result has all elements of the tensor, in their order.
_RESHAPES = frozenset({"reshape", "reshape_as", "view_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze"})
_PERMUTATIONS = frozenset({"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint"})
_ATTRIBUTES = frozenset({"T", "mT", "H", "mH"})
_DETACHED = "detach"
PARTS = frozenset({"chunk", "split", "tensor_split", "unbind"})
SAME = "same"  # the tensor itself, as Tensor.float() of a float32 tensor
ONLY_READ = frozenset({"expand", "expand_as"})  # several elements are one number in memory
# The views that can be changed, and those that can only be read.
VIEWS = (
    _RESHAPES | _PERMUTATIONS | _ATTRIBUTES | PARTS | {SAME, _DETACHED, "__getitem__", "select", "narrow", "diagonal"}
)


def view_of(x: Tensor, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], part: int | None = None) -> Any:
    """Returns the view ``x.name(*args, **kwargs)``; of several tensors that with the number ``part``, if it is given.

    ``name`` is one of `VIEWS` or `ONLY_READ`. A reshape may be a copy, as values are only read.
    """
    if name == SAME:
        return x
    view = getattr(x, name) if name in _ATTRIBUTES else getattr(x, name)(*args, **kwargs)
    return view if part is None else view[part]


def with_view(
    x: Tensor, value: Tensor, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], part: int | None = None
) -> Tensor:
    """Returns a copy of ``x`` whose `view_of` these arguments is ``value``; ``name`` is one of `VIEWS`."""
    if name == SAME:
        return value
    if name == _DETACHED:  # such a change has no gradient
        return with_gradient_of(value, x) if torch.is_grad_enabled() else value
    if name in _RESHAPES:
        return value.reshape(x.shape)
    if name in _PERMUTATIONS or name in _ATTRIBUTES:
        order = view_of(torch.empty(tuple(range(x.dim())), device="meta"), name, args, kwargs).shape
        return value.permute([list(order).index(axis) for axis in range(x.dim())])
    if part is not None:
        parts = list(view_of(x, name, args, kwargs))
        parts[part] = value
        axis = kwargs.get("dim", (*args, 0, 0)[name != "unbind"] if len(args) > (name != "unbind") else 0)
        return torch.stack(parts, axis) if name == "unbind" else torch.cat(parts, axis)
    if name == "diagonal":
        return with_places(x, lambda places: view_of(places, name, args, kwargs), value)
    return with_item(x, args[0] if name == "__getitem__" else _index(name, x, *args, **kwargs), value)


def with_places(x: Tensor, view: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """Returns a copy of ``x`` whose ``view`` is ``value``: the same view of the numbers of all elements tells where."""
    places = view(torch.arange(x.numel(), dtype=torch.int64).reshape(x.shape))
    return x.reshape(-1).scatter(0, places.reshape(-1).long(), value.reshape(-1)).reshape(x.shape)


def _index(name: str, x: Tensor, dim: int, start: Any = 0, length: Any = 0, *, index: Any = None) -> tuple[Any, ...]:
    """Returns the index in brackets that stands for ``narrow`` or ``select``."""
    start = start if index is None else index
    axis = operator.index(dim) % x.dim()
    if name == "narrow":
        start = start + x.shape[axis] if isinstance(start, int) and start < 0 else start
        return (*(slice(None),) * axis, slice(start, start + length))
    return (*(slice(None),) * axis, start)
