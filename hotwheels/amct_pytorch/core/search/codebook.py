"""SNQ and LNQ: 4-bit weights whose 16 values come from clustering (spec 6.2 - 6.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..affine import canonical_scale
from ..channels import per_channel
from ..params import QuantParams
from ..spec import SMALLEST_SCALE
from .arq import at_least
from .kmeans import cluster

__all__ = ["assign", "cluster", "codebook_of", "lnq_normalise", "lnq_params", "rescaled", "snq_params"]

_INT8_MAX = 127


def codebook_of(centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (params, s): ``s = max|c| / 127``, ``params = rhe(c / s)``; int32 [16] and a float32 scalar.

    ``params * s`` approximates the ``centroids`` [16]. All zero: s = 1.
    """
    step = centroids.abs().max() / _INT8_MAX
    step = torch.where(step > 0, step, torch.ones_like(step))
    params = torch.round(centroids / step).clamp_(-_INT8_MAX, _INT8_MAX)
    return params.to(torch.int32), step.to(torch.float32)


def assign(weight: Tensor, scale: Tensor, codebook: Tensor) -> Tensor:
    """Returns the value of ``codebook`` whose product with ``scale`` is nearest, int32, of the shape of ``weight``.

    Halfway between two values the lower one is taken.

    Args:
      weight: [C_out, ...].
      scale: Real value of one unit of the codebook, [] or [C_out].
      codebook: [16] sorted integers.
    """
    values = codebook.to(torch.float32)
    middles = (values[1:] + values[:-1]) / 2  # exact: halves of integers
    units = weight.detach() / per_channel(scale, weight)
    return codebook[torch.bucketize(units.contiguous(), middles)]


def snq_params(
    weight: Tensor,
    channel_wise: bool = True,
    init_algo: str = "uniform",
    max_iteration: int = 1000,
    min_distance: float = 1e-10,
) -> QuantParams:
    """Returns the grid of SNQ: one codebook for the layer, scale ``s * a`` with ``a = max|w|``, canonical.

    Args:
      weight: [C_out, ...].
      channel_wise: Whether ``a`` is taken per output channel: scale [C_out], else [].
      init_algo: First centroids: ``uniform``, ``gaussian`` or ``d2sampling``.
      max_iteration: Most rounds of clustering.
      min_distance: Clustering ends when no centroid moves farther.
    """
    weight = weight.detach().to(torch.float32)
    size = weight.flatten(1).abs().amax(1) if channel_wise else weight.abs().max()
    divisor = torch.where(size > 0, size, torch.ones_like(size))
    normalised = weight / per_channel(divisor, weight)
    centroids = cluster(normalised.flatten(), init_algo, max_iteration, min_distance)
    return _params(centroids, size)


def lnq_normalise(weight: Tensor, clip_max: Tensor | float) -> Tensor:
    """Returns ``clip(w / (sigma * clip_max), -1, 1)``, sigma the population deviation of all weights; differentiable.

    Weights that are all equal give zeros.
    """
    bound = _deviation(weight) * clip_max
    return torch.where(bound > 0, weight / torch.where(bound > 0, bound, torch.ones_like(bound)), 0.0).clamp(-1, 1)


def lnq_params(weight: Tensor, centroids: Tensor, clip_max: Tensor | float) -> QuantParams:
    """Returns the grid of LNQ: scale ``s * clip_max * sigma``, a canonical scalar.

    ``centroids`` are the 16 centroids of the normalised weight, in [-1, 1].
    """
    bound = _deviation(weight.detach().to(torch.float32)) * float(clip_max)
    return _params(centroids.detach(), bound, clip_max=float(clip_max))


def rescaled(params: QuantParams, factor: Tensor) -> QuantParams:
    """Returns ``params`` for weights multiplied by ``factor`` [C_out] (BN folding, spec 6.7): scale by ``|factor|``.

    The weights themselves are assigned anew: the codebook is not symmetric, so a negative factor changes them.
    """
    scale = canonical_scale(at_least(params.scale * factor.detach().abs().to(torch.float32), SMALLEST_SCALE))
    return QuantParams(
        scale=scale,
        offset=torch.zeros_like(scale, dtype=torch.int32),
        num_bits=params.num_bits,
        codebook=params.codebook,
        centroids=params.centroids,
        clip_max=params.clip_max,
    )


def _params(centroids: Tensor, size: Tensor, clip_max: float | None = None) -> QuantParams:
    """Returns the grid of ``centroids`` that were found on weights divided by ``size``."""
    codebook, step = codebook_of(centroids)
    scale = canonical_scale(at_least(step * size, SMALLEST_SCALE))
    offset = torch.zeros_like(scale, dtype=torch.int32)
    return QuantParams(
        scale=scale, offset=offset, num_bits=4, codebook=codebook, centroids=centroids, clip_max=clip_max
    )


def _deviation(weight: Tensor) -> Tensor:
    return weight.std(correction=0)
