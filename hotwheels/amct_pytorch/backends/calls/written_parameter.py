"""A forward's change of its own parameter or buffer (``self.weight.data *= self.mask``) as a function of a graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...torch_private import FakeTensor

_ROUNDING = 2.0**-21  # of an element: what computing a value again may change


def written(state: Tensor, value: Tensor) -> Tensor:
    """Makes ``value`` the value of ``state``, and returns ``state``, so the gradient is that of a parameter.

    A difference within float rounding is not written: computing a norm again would else change the weights in each
    call. Of a buffer ``value`` is returned, which may have a gradient.
    """
    if isinstance(value, FakeTensor) or isinstance(state, FakeTensor):
        return value
    with torch.no_grad():
        new = value.to(state.dtype)
        if not is_same(state, new):
            state.copy_(new)
    return state if isinstance(state, nn.Parameter) else value


def is_same(one: Tensor, other: Tensor) -> bool:
    """Whether both have the same elements but for float rounding."""
    return torch.equal(one, other) or bool(((one - other).abs() <= _ROUNDING * other.abs()).all())
