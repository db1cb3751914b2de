"""Quantized activations are not kept for the backward of what reads them, but quantized again when it needs them.

The tensor in front of a quantizer is alive anyway: the quantizer's own backward needs it, mostly the one of a ReLU too.
A second copy of every activation would cost half as much memory as float training has altogether; rounding again costs
a few per cent of the time. The values are the same to the bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .gradients import quantized_again

Recipe = Callable[[], Tensor]


@contextlib.contextmanager
def recomputing(values: list[Any]) -> Iterator[None]:
    """Operations inside, which save those of ``values`` that come from a quantizer, save how to make them instead.

    Only for operations that save no result of their own: hooks around those would make reference cycles.
    """
    recipes = _recipes(values) if torch.is_grad_enabled() else {}
    if not recipes:
        yield
        return

    def pack(saved: Tensor) -> Tensor | Recipe:
        return recipes.get(_place(saved), saved)

    with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
        yield


def _recipes(values: list[Any]) -> dict[tuple[Any, ...], Recipe]:
    found = {}
    for value in values:
        recipe = quantized_again(value) if isinstance(value, Tensor) else None
        if recipe is not None:
            found[_place(value)] = recipe
    return found


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _unpack(packed: Tensor | Recipe) -> Tensor:
    return packed if isinstance(packed, Tensor) else packed()
