"""SNQ: 4-bit weights with a codebook found once, for PTQ (spec 6.2, 6.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..config.arguments.algorithms import default_of
from ..core.affine import canonical_scale
from ..core.params import QuantParams
from .arguments import make_observer
from .base import WeightQuantizer
from .learning import gradients
from .observers.snq_observer import SnqObserver
from .registry import register
from .weight_grid import GridOrigin, nearest_in_codebook, with_smallest_scale


@register("SnqWeightFakeQuantize")
class SnqWeightFakeQuantize(WeightQuantizer):
    """Rounds each weight to the nearest of 16 values; the first observed weight is clustered, nothing is learned.

    Args:
      observer: SnqObserver.
      num_bits: 4.
      channel_wise: One scale per output channel (axis 0), default True; all channels share one codebook.
      object_layer: Layer named in messages.
      channels: Number of output channels; with channel_wise needed for a state_dict of fixed shape.
      **observer_args: Arguments of the observer: max_iteration, cali_min_distance, init_algo.

    Raises:
      ConfigError: An argument is outside its range.
    """

    codebook: Tensor
    centroids: Tensor
    known_scale: Tensor
    grid_origin = GridOrigin.STATE
    whole_numbers = ("codebook",)

    def __init__(
        self,
        observer: type[SnqObserver] = SnqObserver,
        num_bits: int = default_of("SnqWeightFakeQuantize", "num_bits", is_weight=True),
        channel_wise: bool = default_of("SnqWeightFakeQuantize", "channel_wise", is_weight=True),
        object_layer: str = "",
        channels: int | None = None,
        **observer_args: Any,
    ) -> None:
        source = make_observer(
            observer, SnqObserver, object_layer, num_bits=num_bits, channel_wise=channel_wise, **observer_args
        )
        super().__init__(
            num_bits=source.num_bits, layer_name=object_layer, settings={"channel_wise": int(channel_wise)}
        )
        self.channel_wise = channel_wise
        self.observer = source
        self.register_buffer("codebook", torch.zeros(16))
        self.register_buffer("centroids", torch.zeros(16))
        self.register_buffer("known_scale", torch.ones(channels or 1) if channel_wise else torch.ones(()))

    def _take(self, samples: Tensor) -> bool:
        self.adopt(self.observer.weight_params(samples), samples)
        return True

    @torch.no_grad()
    def adopt(self, params: QuantParams, weight: Tensor) -> None:
        """Uses codebook, centroids and scale of ``params`` as the grid from now on, for any weight."""
        assert params.codebook is not None and params.centroids is not None, "SNQ always has both"
        self.codebook.copy_(params.codebook)
        self.centroids.copy_(params.centroids)
        if self.known_scale.shape != params.scale.shape:  # stand-alone use without ``channels``
            self.known_scale = torch.ones_like(params.scale, device=self.known_scale.device)
        self.known_scale.copy_(params.scale)

    def _grid(self, weight: Tensor, bias: Tensor | None) -> QuantParams:
        params = QuantParams(
            scale=canonical_scale(self.known_scale), offset=torch.zeros_like(self.known_scale, dtype=torch.int32),
            num_bits=self.num_bits, codebook=self.codebook.round().to(torch.int32), centroids=self.centroids.clone(),
        )  # fmt: skip
        return with_smallest_scale(params, bias)

    def _round(self, weight: Tensor, params: QuantParams) -> Tensor:
        return gradients.replace_value(nearest_in_codebook(weight, params), weight)

    def _scale_in_force(self) -> Tensor:
        return self.known_scale
