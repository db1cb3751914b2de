"""Operations that only move elements, on integers: the elements of their results are grid points of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.accumulator import Deferred, Joined, Sum, Term
from .call import MethodCall

_CATS = (torch.cat, torch.concat, torch.concatenate)
_READS_MEMORY = frozenset({"flatten", "reshape", "view"})  # these may depend on the order in memory, or copy
_ONE_INPUT = _READS_MEMORY | {"permute", "transpose", "swapaxes", "swapdims", "split"}


def moves_one(function: Callable[..., Any]) -> bool:
    """Whether ``function`` only moves the elements of its first argument, and is no method that changes it in place."""
    name = _name_of(function)
    return name in _ONE_INPUT and (isinstance(function, MethodCall) or function is getattr(torch, name, None))


def ready_for(function: Callable[..., Any], integers: Tensor) -> Tensor:
    """Returns ``integers`` in the order in memory that ``function`` expects."""
    return integers.contiguous() if _name_of(function) in _READS_MEMORY else integers


def _name_of(function: Callable[..., Any]) -> str:
    return function.name if isinstance(function, MethodCall) else getattr(function, "__name__", "")


def moved(result: Any, step: Tensor) -> Any:
    """Returns the values of moved float32 integers, one tensor or several, with one step for all of them."""
    if isinstance(result, Tensor):
        return _values(result, step)
    return type(result)(_values(one, step) for one in result)


def _values(integers: Tensor, step: Tensor) -> Deferred:
    if integers.dim() == 4 and integers.stride(1) == 1:
        integers = integers.contiguous(memory_format=torch.channels_last)
    else:
        integers = integers.contiguous()
    made = Deferred.by(integers, lambda at: integers[at].double() * step, Sum(((integers, step),)))
    made.may_be_nan = False
    return made


def joined(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], terms: Sequence[Term]
) -> Deferred | None:
    """Returns the values of ``torch.cat`` of quantized tensors, of which ``terms`` has all; None if it is no such call.

    ``args`` and ``kwargs`` are those of the call.
    """
    if function not in _CATS or len(args) > 2 or not kwargs.keys() <= {"tensors", "dim", "axis"}:
        return None
    axis = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
    parts = [integers for integers, _ in terms]
    sizes = {(*one.shape[: axis % one.dim()], *one.shape[axis % one.dim() + 1 :]) for one in parts if one.dim()}
    tensors = args[0] if args else kwargs["tensors"]
    if len(tensors) != len(parts) or len(sizes) != 1 or not all(one.dim() and one.is_cpu for one in parts):
        return None
    axis %= parts[0].dim()
    form = Joined(tuple(terms), axis)
    shape = [*parts[0].shape]
    shape[axis] = sum(one.shape[axis] for one in parts)
    made = Deferred.of_shape(torch.Size(shape), form.part, form)
    made.may_be_nan = False
    return made
