"""What the learned and the clustered weight quantizers share: the smallest scale of a layer, rounding to a codebook."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..core.affine import canonical_scale
from ..core.arq import at_least, eps_for_bias
from ..core.channels import per_channel
from ..core.codebook import assign
from ..core.params import QuantParams
from ..core.spec import SMALLEST_SCALE


def with_smallest_scale(params: QuantParams, bias: Tensor | None, eps: float = SMALLEST_SCALE) -> QuantParams:
    """Returns ``params`` with no scale below ``eps``, which a large ``bias`` raises (SPEC 4.3)."""
    scale = canonical_scale(at_least(params.scale, eps_for_bias(eps, bias)))
    return dataclasses.replace(params, scale=scale)


def nearest_in_codebook(weight: Tensor, params: QuantParams) -> Tensor:
    """Returns the nearest ``codebook * scale`` of every weight [C_out, ...], float32, without gradient (SPEC 6.3)."""
    assert params.codebook is not None, "only non-uniform weights come here"
    with torch.no_grad():
        values = assign(weight, params.scale, params.codebook).to(torch.float32)
        return values.mul_(per_channel(params.scale, weight))


def inverse_where_it_holds(folded: Tensor, inverse: Tensor, params: QuantParams) -> Tensor:
    """Returns ``inverse`` [C_out], and 0 for channels of ``folded`` that a codebook without a zero drowns in its error.

    Such a channel, all of whose weights are nearer to 0 than any value of the codebook, would be that value times an
    inverse of any size: the running variance behind it grows, with it the inverse, and so on beyond float32. 0 is what
    a uniform grid makes of the channel (SPEC 6.7 asks for it where gamma is 0).
    """
    if params.codebook is None:
        return inverse
    with torch.no_grad():
        smallest = params.codebook.abs().min() * params.scale
        is_lost = folded.flatten(1).abs().amax(1) < smallest
    return torch.where(is_lost, torch.zeros_like(inverse), inverse)
