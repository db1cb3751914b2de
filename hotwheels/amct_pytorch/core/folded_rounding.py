"""Folds a BatchNorm into a weight and rounds the result, with the bias, in one compiled pass over the weight.

The grid ends at the largest absolute weight (ARQ, spec 6.1). With torch the same takes seven passes and two dozen calls
for each layer and forward: `batch_norm.fold`, `search.arq.weight_params`, `affine.fake_quantize`, `quantize_bias`. The
results are equal bit for bit.
"""

from __future__ import annotations

import ctypes
import dataclasses

import torch
from torch import Tensor

from . import native
from .search.arq import LARGE_BIAS, LARGE_BIAS_EPS, floor_of_scale
from .spec import QuantSpec

_POINTER, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS = (*(_POINTER,) * 2, *(_LONG,) * 2, *(_POINTER,) * 6, ctypes.c_double, ctypes.c_int, *(_FLOAT,) * 4)


@dataclasses.dataclass(frozen=True)
class LargestWeightGrid:
    """A symmetric grid that ends at the largest absolute weight.

    Attributes:
      num_bits: Width of the stored integers.
      channel_wise: Whether there is one scale per output channel.
      eps: Lower bound of every scale.
    """

    num_bits: int
    channel_wise: bool
    eps: float


@dataclasses.dataclass(frozen=True)
class Norm:
    """A BatchNorm with constant statistics; all tensors are [C_out].

    Attributes:
      mean: The running mean.
      var: The running variance.
      gamma: The weight; None means ones.
      beta: The bias; None means zeros.
      eps: The number that is added to ``var``.
    """

    mean: Tensor
    var: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    eps: float


@dataclasses.dataclass(frozen=True)
class RoundedWeight:
    """The result: ``weight`` [C_out, ...] and ``bias`` [C_out] on their grids, and ``float_bias``, folded only."""

    weight: Tensor
    bias: Tensor | None
    float_bias: Tensor | None


def round_folded(
    weight: Tensor, bias: Tensor | None, norm: Norm | None, data_scale: float, grid: LargestWeightGrid
) -> RoundedWeight | None:
    """Returns ``weight`` [C_out, ...] and ``bias`` [C_out] with ``norm`` folded in, rounded; without gradient.

    None if torch has to compute them: without the kernel, for tensors that are not dense float32 on the CPU, and where
    values are not finite or the bias needs a larger scale to fit into int32 (spec 4.4).

    Args:
      weight: Output channels first.
      bias: None for 0.
      norm: None without a BatchNorm.
      data_scale: Scale of the layer's input, for the grid of the bias.
      grid: The grid of the folded weight.
    """
    kernel = native.function("amct_round_folded", _ARGUMENTS)
    channels = weight.shape[0]
    vectors = (bias,) if norm is None else (bias, norm.var, norm.gamma, norm.mean, norm.beta)
    if kernel is None or not _is_plain(weight) or not weight.numel():
        return None
    for one in vectors:
        if one is not None and not (_is_plain(one) and one.numel() == channels):
            return None
    # torch's square root need not be the nearest number, so the kernel cannot replace it.
    deviation = None if norm is None else torch.sqrt(norm.var + norm.eps)
    of_norm = (None,) * 4 if norm is None else (deviation, norm.gamma, norm.mean, norm.beta)
    pointers = [None if one is None else one.data_ptr() for one in (*of_norm, bias)]
    out, made = torch.empty_like(weight), weight.new_empty(4, channels)
    is_incomplete = kernel(
        *(weight.data_ptr(), out.data_ptr(), channels, weight.numel() // channels, *pointers),
        *(made.data_ptr(), data_scale),
        *(grid.channel_wise, QuantSpec(num_bits=grid.num_bits).qmax, floor_of_scale(grid.eps)),
        *(floor_of_scale(max(grid.eps, LARGE_BIAS_EPS)), LARGE_BIAS),
    )
    if is_incomplete:
        return None
    if norm is None and bias is None:
        return RoundedWeight(out, None, None)
    _, float_bias, _, rounded_bias = made.unbind()
    return RoundedWeight(out, rounded_bias, float_bias)


def _is_plain(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.is_cpu and x.is_contiguous()
