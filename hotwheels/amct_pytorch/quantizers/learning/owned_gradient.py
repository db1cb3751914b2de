"""Tells whether only the running backward refers to the gradient it got, so that it may overwrite the gradient.

Autograd may pass one tensor to several nodes (both inputs of an addition get the same), and hooks, ``retain_grad`` and
callers of ``backward(gradient)`` may keep a reference. Each of these raises one of three reference counts: of the
tensor, of its memory or of its Python object. The counts of a gradient without other references are measured once and
not assumed, since another version of Python or torch may count differently.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ...torch_private import reference_counts

Counts = tuple[int, int, int]


def is_owned(grad: Tensor) -> bool:
    """Whether only the calling backward refers to ``grad``; call as ``is_owned(grads[0])``."""
    if type(grad) is not Tensor or grad.device.type != "cpu" or torch.is_grad_enabled():
        return False
    counts = reference_counts(grad)
    return counts is not None and counts == counts_if_owned()


@functools.cache
def counts_if_owned() -> Counts | None:
    """Returns the counts of a gradient to which only its backward refers; None if torch does not report counts.

    Call it first outside of a backward: it runs a small one.
    """
    seen: list[Counts | None] = []
    with torch.enable_grad():
        x = torch.zeros(2, requires_grad=True)
        _Probe.apply(x, seen).mul(2).sum().backward()  # type: ignore[no-untyped-call]
    return seen[0]


class _Probe(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: list[Counts | None]) -> Tensor:
        ctx.seen = seen
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.seen.append(_seen_by_a_backward(grads[0]))
        return grads[0], None


def _seen_by_a_backward(grad: Tensor) -> Counts | None:
    """Called in the same way as `is_owned`, so that the Python object has the same number of references."""
    return reference_counts(grad)
