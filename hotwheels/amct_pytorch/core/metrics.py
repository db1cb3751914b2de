"""How far two tensors are apart: signal to noise, angle, integer steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sqnr_db(reference: Tensor, test: Tensor) -> float:
    """Returns ``10 log10(sum reference^2 / sum (reference - test)^2)`` in dB; inf if equal, -inf if only noise."""
    wanted, got = reference.detach().double(), test.detach().double()
    return ratio_db(float(wanted.square().sum()), float((wanted - got).square().sum()))


def ratio_db(signal: float, noise: float) -> float:
    """Returns ``10 log10(signal / noise)`` of two sums of squares in dB; inf without noise, -inf without signal."""
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def cosine(reference: Tensor, test: Tensor) -> float:
    """Returns the cosine of the angle between the flattened tensors, in [-1, 1]; 1 if both are zero, 0 if one is."""
    wanted, got = reference.detach().double().flatten(), test.detach().double().flatten()
    norms = float(wanted.norm()) * float(got.norm())
    if norms == 0.0:
        return 1.0 if torch.equal(wanted, got) else 0.0
    return max(-1.0, min(1.0, float(wanted @ got) / norms))


def max_lsb(a: Tensor, b: Tensor, scale: Tensor | float) -> float:
    """Returns ``max |a - b| / scale``: the largest difference in integer steps; 0 for empty tensors.

    ``scale`` broadcasts against the tensors (real value of one step).
    """
    if not a.numel():
        return 0.0
    step = scale.detach().double() if isinstance(scale, Tensor) else scale
    return float(((a.detach().double() - b.detach().double()).abs() / step).max())
