"""Tensors that are cheap to make are not kept for the backward of what reads them, but made again when it needs them.

*Quantized activations and weights.* The tensor in front of a quantizer is alive anyway: the quantizer's own backward
needs it, mostly the one of a ReLU too. A second copy of every activation would cost half as much memory as float
training has altogether; rounding again costs a few per cent of the time. The values are the same to the bit.

*Results of a BatchNorm.* Only a learned range behind it would keep them: its own backward needs its input. They are the
same but for the last bit, as torch's kernel multiplies and adds in one step on some processors.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Recipe = Callable[[], Tensor]
RecipeOf = Callable[[Tensor], "Recipe | None"]


@contextlib.contextmanager
def recomputing(values: Sequence[Any], recipe_of: RecipeOf) -> Iterator[None]:
    """Operations inside, which save those of ``values`` that ``recipe_of`` knows, save how to make them instead.

    Only for operations that save no result of their own: hooks around those would make reference cycles.
    """
    recipes = _recipes(values, recipe_of) if torch.is_grad_enabled() else {}
    if not recipes:
        yield
        return

    def pack(saved: Tensor) -> Tensor | Recipe:
        return recipes.get(_place(saved), saved)

    with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
        yield


def normalized_again(value: Tensor) -> Recipe | None:
    """Returns a function that makes ``value`` once more, if a BatchNorm in training made it; else None."""
    made_by: Any = value.grad_fn
    if type(made_by).__name__ != "NativeBatchNormBackward0" or not made_by._saved_training:
        return None
    weight, bias = made_by._saved_weight, getattr(made_by.next_functions[2][0], "variable", None)
    if weight is None or bias is None:
        return None
    x, mean, inverse_std = made_by._saved_input, made_by._saved_result1, made_by._saved_result2
    factor = (inverse_std * weight).detach()
    return functools.partial(_scaled, x.detach(), factor, torch.addcmul(bias, mean, factor, value=-1).detach())


def _scaled(x: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    """``x * factor + shift`` for each channel on axis 1."""
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
