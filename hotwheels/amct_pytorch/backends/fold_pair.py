"""Decides whether a convolution and the BatchNorm behind it can become one weight and bias (spec 6.7)."""

from __future__ import annotations

from typing import Any

import torch

from ..core.batch_norm import channel_factor, fold_bias
from ..core.channels import to_output_first
from ..core.statistics.extremes import row_extremes
from ..ops.desc import Role
from ..ops.registry import Registry


def is_foldable_pair(conv: Any, norm: Any, registry: Registry) -> bool:
    """Whether ``norm`` can be folded into ``conv``, judged by the two modules alone.

    False if the convolution pads with anything but zeros, the BatchNorm has no affine values or no running statistics,
    or a folded value is not finite. The caller checks that both are called once, one behind the other.
    """
    op = registry.find_module(type(conv))
    if op is None or op.role not in (Role.CONV, Role.CONV_TRANSPOSE) or not registry.is_fusable(type(norm)):
        return False
    is_transposed = op.role is Role.CONV_TRANSPOSE
    return conv.padding_mode == "zeros" and _has_all_values(norm) and _is_finite(conv, norm, is_transposed)


def _has_all_values(norm: Any) -> bool:
    return all(value is not None for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var))


@torch.no_grad()
def _is_finite(conv: Any, norm: Any, is_transposed: bool) -> bool:
    """Whether the folded values are finite; only the extremes of each channel are computed and checked."""
    factor = channel_factor(norm.running_var, norm.weight, norm.eps)
    rows = to_output_first(conv.weight, conv.groups, is_transposed).flatten(1)
    extremes = torch.stack(row_extremes(rows)) * factor
    bias = fold_bias(conv.bias, norm.running_mean, factor, norm.bias)
    return bool(extremes.isfinite().all() and bias.isfinite().all())
