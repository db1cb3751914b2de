"""The gradients of real_quant are those of fake_quant (spec 2.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...torch_private import pytree


def with_gradient_of(real: Any, fake: Any) -> Any:
    """Returns the values of ``real`` with the gradients of ``fake`` (spec 2.1)."""
    return pytree.tree_map(_straight_through, real, fake)


def _straight_through(real: Any, fake: Any) -> Any:
    if not (isinstance(fake, Tensor) and fake.requires_grad):
        return real
    return _ValueOf.apply(fake, real)  # type: ignore[no-untyped-call]


class _ValueOf(torch.autograd.Function):
    """Returns ``real`` exactly, with the gradient of ``fake``; ``fake + (real - fake)`` would round."""

    @staticmethod
    def forward(_ctx: Any, _fake: Tensor, real: Tensor) -> Tensor:
        return real.clone()

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
