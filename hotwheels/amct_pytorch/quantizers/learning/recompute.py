"""Tensors that are cheap to make are not kept for the backward of what reads them, but made again when it needs them.

*Quantized activations and weights.* The tensor in front of a quantizer is alive anyway: the quantizer's own backward
needs it, mostly the one of a ReLU too. A second copy of every activation would cost half as much memory as float
training has altogether; rounding again costs a few per cent of the time. The values are the same to the bit.

*Results of a BatchNorm.* Only a learned range behind it would keep them: its own backward needs its input. They are the
same but for the last bit, as torch's kernel multiplies and adds in one step on some processors.

Where somebody else says what becomes of saved tensors (checkpointing, offloading), all of that is left to them: reading
a tensor that such hooks have packed runs a forward again, or fetches the tensor from elsewhere.
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
    """Operations inside, which save those of ``values`` that ``recipe_of`` knows, save how to make them instead.

    Under hooks on saved tensors nothing is changed. Only for operations that save no result of their own: hooks around
    those would make reference cycles.
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
    """Whether this is a forward inside a backward: checkpointing repeats one that has been counted and observed."""
    return is_in_backward()


def normalized_again(value: Tensor) -> Recipe | None:
    """Returns a function that makes ``value`` once more, if a BatchNorm in training made it; else None."""
    made_by: Any = value.grad_fn
    if type(made_by).__name__ != "NativeBatchNormBackward0" or not made_by._saved_training:
        return None
    weight, bias = (getattr(made_by.next_functions[index][0], "variable", None) for index in (1, 2))
    if weight is None or bias is None:
        return None
    # The graph does not keep the bias, and an optimizer may have changed it by the time of the backward.
    return functools.partial(_normalize, made_by, bias.detach().clone())


@torch.no_grad()
def _normalize(made_by: Any, bias: Tensor) -> Tensor:
    """The result of the BatchNorm whose node in the graph is ``made_by``."""
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
