"""Folding a BatchNorm into the weight and bias in front of it (spec 6.7)."""

from __future__ import annotations

import torch
from torch import Tensor

from .channels import per_channel


def channel_factor(var: Tensor, gamma: Tensor, eps: float) -> Tensor:
    """Returns ``gamma / sqrt(var + eps)``, [C_out]: the factor of each channel in the BatchNorm."""
    return gamma / torch.sqrt(var + eps)


def inverse_factor(var: Tensor, gamma: Tensor, eps: float) -> Tensor:
    """Returns ``sqrt(var + eps) / gamma``, and 0 where gamma = 0: undoes the fold in front of a training BN."""
    is_zero = gamma == 0
    safe = torch.where(is_zero, torch.ones_like(gamma), gamma)
    return torch.where(is_zero, torch.zeros_like(gamma), torch.sqrt(var + eps) / safe)


def is_lost(weight: Tensor, rounded: Tensor) -> Tensor:
    """Returns bool [C_out]: True for channels of ``weight`` [C_out, ...] whose rounding error is as large as they are.

    In these channels the statistics of a training BatchNorm must not follow the rounded weight. The folded weight
    ``w * gamma / sqrt(var)`` is rounded on a grid that does not get finer as that weight gets smaller. The rounding
    error in ``w`` is that step times ``sqrt(var) / gamma``: a larger ``var`` makes the next batch's variance larger
    still, and it would grow without end.
    """
    error, size = (rounded - weight).flatten(1).square().sum(1), weight.flatten(1).square().sum(1)
    return error >= size


def fold(
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Returns (weight, bias) that compute convolution and eval-mode BatchNorm at once; new tensors, differentiable.

    ``w' = w * factor``, ``b' = (b - mean) * factor + beta``, ``factor = gamma / sqrt(var + eps)``. Where gamma = 0 the
    channel is the constant beta.

    Args:
      weight: [C_out, ...], output channels first.
      bias: [C_out], or None for 0.
      mean: Running mean, [C_out].
      var: Running variance, [C_out].
      gamma: Weight of the BatchNorm, [C_out].
      beta: Bias of the BatchNorm, [C_out].
      eps: ``eps`` of the BatchNorm.
    """
    factor = channel_factor(var, gamma, eps)
    return weight * per_channel(factor, weight), fold_bias(bias, mean, factor, beta)


def fold_bias(bias: Tensor | None, mean: Tensor, factor: Tensor, beta: Tensor) -> Tensor:
    """Returns ``(bias - mean) * factor + beta``, [C_out]; a ``bias`` of None counts as 0."""
    return (-mean if bias is None else bias - mean) * factor + beta
