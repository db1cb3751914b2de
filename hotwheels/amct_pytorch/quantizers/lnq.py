"""LNQ: 4-bit weights, clusters that are updated in training, a learned bound (spec 6.4).

HiSilicon's AMCT manual, chapter "LNQ weight quantization" [LNQ权重量化算法].
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..config.arguments.algorithms import default_of
from ..core.channels import per_channel
from ..core.params import QuantParams
from ..core.search.codebook import cluster, lnq_normalise, lnq_params
from ..core.spec import SMALLEST_SCALE
from .arguments import make_observer
from .base import WeightQuantizer
from .learning import gradients
from .observers.snq_observer import SnqObserver
from .registry import register
from .weight_grid import GridOrigin, nearest_in_codebook, with_smallest_scale

_BEYOND_THE_END = 1.001  # where weights count as clipped, in multiples of the largest value of a given codebook


@register("LnqFakeQuantize")
class LnqFakeQuantize(WeightQuantizer):
    """Rounds each weight to the nearest of 16 values; they are found anew every ``cluster_freq`` optimizer steps.

    A training forward counts as a step if the weights have changed since the last training forward: so micro-batches
    whose gradients are accumulated, a layer that is called twice and a recomputed forward (checkpointing) count once.

    The weights are clipped at ``clip_max`` standard deviations of the weight; ``clip_max`` is learned.

    Args:
      observer: SnqObserver; says how the first centroids are chosen.
      num_bits: 4.
      cluster_freq: Optimizer steps between two clusterings, above 0, default 400.
      max_iteration: Largest number of k-means rounds, [500, 2000], default 1000.
      min_distance: The clustering ends when no centroid moves further, [1e-8, 1e-2], default 1e-4.
      clip_max: First bound, in standard deviations of the weight, above 0, default 3.
      symmetric: Whether 8 centroids of the absolute values are found and mirrored, instead of 16 of the values.
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
    step_centroids: Tensor

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
        self._counted_weight = math.nan  # the sum of the weight at the last training forward
        self._centroids_of_step: Tensor | None = None  # inside a training forward
        self.clip_max = nn.Parameter(torch.tensor(float(clip_max)))
        self.register_buffer("previous_clip_max", torch.tensor(float(clip_max)))
        self.register_buffer("centroids", torch.zeros(16))
        self.register_buffer("known_scale", torch.ones(()))
        self.register_buffer("training_forwards", torch.zeros((), dtype=torch.int64))
        self.register_buffer("step_centroids", torch.zeros(16), persistent=False)

    def _take(self, samples: Tensor) -> bool:
        normalised = lnq_normalise(samples, self._bound())
        centroids = cluster(
            normalised.flatten(), self.observer.init_algo, self.max_iteration, self.min_distance,
            symmetric=self.is_mirrored,
        )  # fmt: skip
        scale = lnq_params(samples, centroids, self._bound()).scale
        self.centroids.copy_(centroids)
        self.known_scale.copy_(scale)
        return True

    @property
    def grid_origin(self) -> GridOrigin:  # type: ignore[override]
        """Mirrored centroids are OTHER, as refinement fits all 16 values on their own."""
        return GridOrigin.OTHER if self.is_mirrored else GridOrigin.STATE

    @torch.no_grad()
    def adopt(self, params: QuantParams, weight: Tensor) -> None:
        """Uses codebook and scale of ``params`` as the grid of ``weight``; training goes on from there.

        ``clip_max`` is raised if the grid ends beyond it, so that weights at its end still get their gradients.
        """
        assert params.codebook is not None, "LNQ always has one"
        values = params.codebook * params.scale
        sigma = weight.detach().float().std(correction=0)
        if not sigma > 0:
            return  # all weights are equal: the grid has no size that could be kept
        self.clip_max.copy_(torch.maximum(self._bound(), _BEYOND_THE_END * values.abs().max() / sigma))
        self.previous_clip_max.copy_(self.clip_max)
        self.centroids.copy_(values / (self.clip_max * sigma))
        self.known_scale.copy_(params.scale)

    def _bound(self) -> Tensor:
        """Returns ``clip_max``, or its last usable value if training drove it to zero; no gradient. NaN stays NaN."""
        clip_max = self.clip_max.detach()
        return torch.where(clip_max <= SMALLEST_SCALE, self.previous_clip_max, clip_max)

    def _grid(self, weight: Tensor, bias: Tensor | None) -> QuantParams:
        centroids = self.centroids if self._centroids_of_step is None else self._centroids_of_step
        return with_smallest_scale(lnq_params(weight, centroids.clone(), self._bound()), bias)

    @contextlib.contextmanager
    def training_forward(self, weight: Tensor, factor: Tensor | None = None) -> Iterator[None]:
        """Counts a step if ``weight`` has changed; finds new clusters at the end of every ``cluster_freq``-th step.

        All forwards of a step use the clusters of its beginning, so a forward that checkpointing repeats is equal.
        """
        total = weight.detach().sum(dtype=torch.float64).item()
        is_new = total != self._counted_weight
        with torch.no_grad():
            self._centroids_of_step = self.centroids.clone() if is_new else self.step_centroids
        try:
            yield
        finally:
            begun_with, self._centroids_of_step = self._centroids_of_step, None
        if not is_new:
            return
        with torch.no_grad():
            if (int(self.training_forwards) + 1) % self.cluster_freq == 0:
                self._take((weight if factor is None else weight * per_channel(factor, weight)).float())
            self.step_centroids.copy_(begun_with)
            self.training_forwards.add_(1)
        self._counted_weight = total

    def _round(self, weight: Tensor, params: QuantParams) -> Tensor:
        value = nearest_in_codebook(weight, params)
        if not torch.is_grad_enabled():
            return value
        self._keep_bound()
        sigma = weight.detach().std(correction=0)
        return gradients.clipped_weight(weight, value, self.clip_max, sigma)

    def _keep_bound(self) -> None:
        with torch.no_grad():
            self.clip_max.copy_(self._bound())
            self.previous_clip_max.copy_(self.clip_max)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._counted_weight = math.nan

    def _scale_in_force(self) -> Tensor:
        return self.known_scale
