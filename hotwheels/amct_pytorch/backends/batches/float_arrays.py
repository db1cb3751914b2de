"""Arrays for the comparison of float models: tensors as arrays, and inputs that differ in their last bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
