"""Decides whether a layer with a weight and the BatchNorm behind it can become one weight and bias (spec 6.7)."""

from __future__ import annotations

from typing import Any

import torch

from ...nn.norm_chain import BatchNormStage
from ...nn.weighted_op import WeightedOp
from ...ops.registry import Registry


@torch.no_grad()
def is_foldable_pair(conv: Any, norm: Any, registry: Registry) -> bool:
    """Whether ``norm`` can be folded into ``conv``, a convolution or Linear, judged by the two modules alone.

    False if the convolution pads with anything but zeros, the BatchNorm has no running statistics, or a folded value is
    not finite. The caller checks that both are called once, one behind the other.
    """
    op = registry.find_module(type(conv))
    if op is None or not op.has_weight or not registry.is_fusable(type(norm)):
        return False
    if getattr(conv, "padding_mode", "zeros") != "zeros" or norm.running_mean is None or norm.running_var is None:
        return False
    return WeightedOp(conv, op.role, (BatchNormStage(norm),)).is_finite()
