"""Shared functions of the weight quantizers: the smallest scale of a layer, rounding to a codebook."""

from __future__ import annotations

import dataclasses
import enum

import torch
from torch import Tensor

from ..core.affine import canonical_scale
from ..core.channels import per_channel
from ..core.params import QuantParams
from ..core.search.arq import at_least, eps_for_bias
from ..core.search.codebook import assign
from ..core.spec import SMALLEST_SCALE


class GridOrigin(enum.Enum):
    """The source of a weight's grid, which decides how refinement may round weights on that grid."""

    WEIGHT = "the largest weights: the grid stays if these do"
    STATE = "state of the quantizer, which `adopt` replaces"
    GIVEN = "the configuration or a learned value: the grid stays whatever the weights are"
    OTHER = "all weights together: a changed weight has another grid"


def with_smallest_scale(params: QuantParams, bias: Tensor | None, eps: float = SMALLEST_SCALE) -> QuantParams:
    """Returns ``params`` with no scale below ``eps``, which a large ``bias`` raises (spec 4.3)."""
    scale = canonical_scale(at_least(params.scale, eps_for_bias(eps, bias)))
    return dataclasses.replace(params, scale=scale)


def nearest_in_codebook(weight: Tensor, params: QuantParams) -> Tensor:
    """Returns the nearest ``codebook * scale`` of every weight [C_out, ...], float32, without gradient (spec 6.3)."""
    assert params.codebook is not None, "only non-uniform weights come here"
    with torch.no_grad():
        values = assign(weight, params.scale, params.codebook).to(torch.float32)
        return values.mul_(per_channel(params.scale, weight))
