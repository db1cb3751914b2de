"""LNQ: 4-bit weights, clusters that follow the training, a learned bound (spec 6.4).

HiSilicon's AMCT manual, chapter "LNQ weight quantization" [LNQ权重量化算法].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..config.arguments.algorithms import default_of
from ..core.params import QuantParams
from ..core.search.codebook import cluster, lnq_normalise, lnq_params
from ..core.spec import SMALLEST_SCALE
from .arguments import make_observer
from .base import WeightQuantizer
from .learning import gradients
from .observers.snq_observer import SnqObserver
from .registry import register
from .weight_grid import nearest_in_codebook, with_smallest_scale


@register("LnqFakeQuantize")
class LnqFakeQuantize(WeightQuantizer):
    """Rounds each weight to the nearest of 16 values; they are found anew every ``cluster_freq`` training forwards.

    The weights are clipped at ``clip_max`` standard deviations of the weight; ``clip_max`` is learned.

    Args:
      observer: SnqObserver; says how the first centroids are chosen.
      num_bits: 4.
      cluster_freq: Training forwards between two clusterings, above 0, default 400.
      max_iteration: Largest number of k-means rounds, [500, 2000], default 1000.
      min_distance: The clustering ends when no centroid moves further, [1e-8, 1e-2], default 1e-4.
      clip_max: First bound, in standard deviations of the weight, above 0, default 3.
      symmetric: 8 centroids of the absolute values, mirrored.
      channel_wise: No effect; there is one scale for the weight.
      object_layer: Layer named in messages.
      channels: Number of output channels; not used.
      **observer_args: Arguments of the observer: init_algo.

    Raises:
      ConfigError: An argument is outside its range.
    """

    finds_nan = True
    previous_clip_max: Tensor
    centroids: Tensor
    known_scale: Tensor
    training_forwards: Tensor

    def __init__(
        self,
        observer: type[SnqObserver] = SnqObserver,
        num_bits: int = default_of("LnqFakeQuantize", "num_bits", is_weight=True),
        cluster_freq: int = default_of("LnqFakeQuantize", "cluster_freq", is_weight=True),
        max_iteration: int = default_of("LnqFakeQuantize", "max_iteration", is_weight=True),
        min_distance: float = default_of("LnqFakeQuantize", "min_distance", is_weight=True),
        clip_max: float = default_of("LnqFakeQuantize", "clip_max", is_weight=True),
        symmetric: bool = default_of("LnqFakeQuantize", "symmetric", is_weight=True),
        channel_wise: bool = default_of("LnqFakeQuantize", "channel_wise", is_weight=True),
        object_layer: str = "",
        channels: int | None = None,
        **observer_args: Any,
    ) -> None:
        source = make_observer(observer, SnqObserver, object_layer, max_iteration=max_iteration, **observer_args)
        super().__init__(num_bits=num_bits, layer_name=object_layer)
        self.cluster_freq = cluster_freq
        self.max_iteration, self.min_distance = max_iteration, min_distance
        self.is_mirrored = symmetric
        self.observer = source
        self.clip_max = nn.Parameter(torch.tensor(float(clip_max)))
        self.register_buffer("previous_clip_max", torch.tensor(float(clip_max)))
        self.register_buffer("centroids", torch.zeros(16))
        self.register_buffer("known_scale", torch.ones(()))
        self.register_buffer("training_forwards", torch.zeros((), dtype=torch.int64))

    def _take(self, samples: Tensor) -> bool:
        normalised = lnq_normalise(samples, self._bound())
        centroids = cluster(
            normalised.flatten(), self.observer.init_algo, self.max_iteration, self.min_distance,
            symmetric=self.is_mirrored,
        )  # fmt: skip
        self.centroids.copy_(centroids)
        self.known_scale.copy_(lnq_params(samples, centroids, self._bound()).scale)
        return True

    def _bound(self) -> Tensor:
        """``clip_max``, or its last usable value where training drove it to zero; without gradient. NaN stays."""
        clip_max = self.clip_max.detach()
        return torch.where(clip_max <= SMALLEST_SCALE, self.previous_clip_max, clip_max)

    def _grid(self, weight: Tensor, bias: Tensor | None) -> QuantParams:
        return with_smallest_scale(lnq_params(weight, self.centroids.clone(), self._bound()), bias)

    def _round(self, weight: Tensor, params: QuantParams) -> Tensor:
        value = nearest_in_codebook(weight, params)
        if not torch.is_grad_enabled():
            return value
        self._keep_bound()
        if self.training:
            self._count_forward(weight.detach())
        sigma = weight.detach().std(correction=0)
        return gradients.clipped_weight(weight, value, self.clip_max, sigma)

    def _keep_bound(self) -> None:
        with torch.no_grad():
            self.clip_max.copy_(self._bound())
            self.previous_clip_max.copy_(self.clip_max)

    def _count_forward(self, weight: Tensor) -> None:
        """Finds the clusters anew after every ``cluster_freq`` training forwards; the next forward uses them."""
        with torch.no_grad():
            self.training_forwards.add_(1)
            if int(self.training_forwards) % self.cluster_freq == 0:
                self._take(weight.to(torch.float32))

    def _scale_in_force(self) -> Tensor:
        return self.known_scale
