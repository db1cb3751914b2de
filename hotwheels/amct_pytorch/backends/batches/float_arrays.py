"""Arrays for the comparison of float models: tensors as arrays, and inputs that differ in their last bits."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...torch_private import pytree

_LAST_BITS = 2.0**-21  # four steps of float32, relative


def array_of(x: Tensor) -> NDArray[Any]:
    """Returns a copy of ``x``, floats as float32."""
    x = x.detach().cpu()
    return np.array((x.float() if x.is_floating_point() else x).numpy())


def shaken(x: Tensor) -> Tensor:
    """Returns a copy of ``x`` in which floats differ in their last bits."""
    if not x.is_floating_point():
        return x.clone()
    signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(0)).to(x.device, x.dtype)
    return x * (1 + _LAST_BITS * (2 * signs - 1))


def resized(inputs: Any, sizes: Mapping[tuple[int, int], int], unread: Collection[int] = ()) -> Any:
    """Returns ``inputs`` with other sizes by number of the tensor and axis; the content is repeated.

    Tensors whose number is among ``unread`` are not counted.
    """
    numbers = itertools.count()
    places = itertools.count()

    def resize(x: Tensor) -> Tensor:
        if next(places) in unread:
            return x
        number = next(numbers)
        for axis, size in ((axis, size) for (at, axis), size in sizes.items() if at == number):
            x = x.index_select(axis, torch.arange(size, device=x.device) % x.shape[axis])
        return x

    return pytree.tree_map_only(Tensor, resize, inputs)
