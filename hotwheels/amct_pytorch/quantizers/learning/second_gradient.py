"""Gradients of gradients (``create_graph=True``): gradients that kernels compute are constants to autograd.

torch refuses the second gradient of its own learnable fake quantization, too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedModelError


def refuse_second(gradient: Tensor, *depends_on: Tensor) -> Tensor:
    """Returns ``gradient``, of which no further gradient can be computed if one of ``depends_on`` has a gradient.

    The error is an UnsupportedModelError in the second backward, not before: with ``create_graph=True`` gradients of
    learned ranges are computed beside those that a script differentiates again.
    """
    if not torch.is_grad_enabled():
        return gradient
    return _NoSecond.apply(gradient, *depends_on)  # type: ignore[no-any-return, no-untyped-call]


class _NoSecond(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, gradient: Tensor, *_depends_on: Tensor) -> Tensor:
        return gradient.detach().clone()

    @staticmethod
    def backward(_ctx: Any, *_grads: Tensor) -> None:
        raise UnsupportedModelError(
            "The gradient of a learned range, or of a BatchNorm that is folded, cannot be differentiated again. The"
            " gradient of an input can; leave the parameters of quantizers ('amct_layers.*') and BatchNorms out."
        )
