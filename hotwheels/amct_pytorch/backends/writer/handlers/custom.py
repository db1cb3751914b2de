"""The operators of this package (spec 12.1), for which the chip's converter has special nodes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..call import Call
from ..table import REFUSED, Written, handles

_DOMAIN = "custom_domain"


@handles("pico_ops.LayerNorm")
def layer_norm(
    call: Call, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, axis: int = -3, eps: float = 1e-5
) -> Written:
    """Writes LayerNorm with ones for a missing weight and zeros for a missing bias: the converter needs them."""
    size = x.shape[axis]
    if not isinstance(size, int) and (weight is None or bias is None):
        return REFUSED
    scale = torch.ones(size, dtype=x.dtype) if weight is None else weight
    shift = torch.zeros(size, dtype=x.dtype) if bias is None else bias
    operands = [call.value(one) for one in (x, scale, shift)]
    return call.op("LayerNorm", *operands, domain=_DOMAIN, dim=axis, epsilon=float(eps))


@handles("pico_ops.Gelu")
def gelu(call: Call, x: Tensor, approximate: str = "tanh") -> Written:
    """Writes Gelu."""
    return call.op("Gelu", call.value(x), domain=_DOMAIN, approximate=approximate)


@handles("pico_ops.SpaceToDepth")
def space_to_depth(call: Call, x: Tensor, block_size: int) -> Written:
    """Writes SpaceToDepth."""
    return call.op("SpaceToDepth", call.value(x), blocksize=block_size)


@handles("pico_ops.DepthToSpaceDCR")
def depth_to_space(call: Call, x: Tensor, block_size: int) -> Written:
    """Writes DepthToSpace."""
    return call.op("DepthToSpace", call.value(x), blocksize=block_size, mode="DCR")


@handles("pico_ops.GlobalWarp")
def global_warp(call: Call, x: Tensor, grid: Tensor) -> Written:
    """Writes GlobalWarp."""
    return call.op("GlobalWarp", call.value(x), call.value(grid), domain=_DOMAIN)


@handles("pico_ops.Warp")
def warp(call: Call, x: Tensor, grid: Tensor, roi: Sequence[int] | None = None) -> Written:
    """Writes Warp; without ``roi`` the node applies to the whole image, of any size."""
    region = None if roi is None else list(roi)
    return call.op("Warp", call.value(x), call.value(grid), domain=_DOMAIN, roi=region)
