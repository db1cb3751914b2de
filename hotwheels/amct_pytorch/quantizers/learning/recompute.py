"""Saves memory in training: tensors that are cheap to compute are not kept for a backward, but computed again in it.

*Quantized activations and weights.* The tensor in front of a quantizer stays in memory anyway: the quantizer's backward
needs it, and mostly the backward of a ReLU too. Keeping the quantized activations as well would take half as much
memory again as float training; rounding again costs a few per cent of the time. The values are equal to the bit.

*Results of a BatchNorm.* Only a learned range behind the BatchNorm would keep them; the backward of the BatchNorm keeps
its input instead. The recomputed values may differ in the last bit, as torch's kernel multiplies and adds in one step
on some processors.

If other hooks handle saved tensors (checkpointing, offloading), nothing is changed: reading a tensor that such hooks
have packed would run a forward again, or fetch the tensor from elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...torch_private import is_in_backward, saved_tensors_hooks

Recipe = Callable[[], Tensor]
RecipeOf = Callable[[Tensor], "Recipe | None"]


@contextlib.contextmanager
def recomputing(values: Sequence[Any], recipe_of: RecipeOf) -> Iterator[None]:
    """Operations inside that save one of ``values`` for their backward save the function of ``recipe_of`` instead.

    Values for which ``recipe_of`` returns None are saved as usual; so is every value if other hooks on saved tensors
    are active. Only for operations that do not save their own result: hooks would make reference cycles with those.
    """
    recipes = _recipes(values, recipe_of) if torch.is_grad_enabled() and saved_tensors_hooks() is None else {}
    if not recipes:
        yield
        return

    def pack(saved: Tensor) -> Tensor | Recipe:
        return recipes.get(_place(saved), saved)

    with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
        yield


def is_recomputing() -> bool:
    """Whether this forward runs inside a backward: then checkpointing repeats a forward that was counted already."""
    return is_in_backward()


def normalized_again(value: Tensor) -> Recipe | None:
    """Returns a function that computes ``value`` again; None if ``value`` is no result of a training BatchNorm."""
    made_by: Any = value.grad_fn
    if type(made_by).__name__ != "NativeBatchNormBackward0" or not made_by._saved_training:
        return None
    weight, bias = (getattr(made_by.next_functions[index][0], "variable", None) for index in (1, 2))
    if weight is None or bias is None:
        return None
    # The autograd graph does not keep the bias, and an optimizer may change the bias before the backward.
    return functools.partial(_normalize, made_by, bias.detach().clone())


@torch.no_grad()
def _normalize(made_by: Any, bias: Tensor) -> Tensor:
    """Returns the result of the BatchNorm whose node in the autograd graph is ``made_by``."""
    x, mean, inverse_std = made_by._saved_input, made_by._saved_result1, made_by._saved_result2
    factor = inverse_std * made_by._saved_weight
    shift = torch.addcmul(bias, mean, factor, value=-1)
    shape = (1, -1, *(1,) * (x.dim() - 2))
    return torch.addcmul(shift.view(shape), x, factor.view(shape))


def _recipes(values: Sequence[Any], recipe_of: RecipeOf) -> dict[tuple[Any, ...], Recipe]:
    found = {}
    for value in values:
        recipe = recipe_of(value) if isinstance(value, Tensor) else None
        if recipe is not None:
            found[_place(value)] = recipe
    return found


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _unpack(packed: Tensor | Recipe) -> Tensor:
    return packed if isinstance(packed, Tensor) else packed()
