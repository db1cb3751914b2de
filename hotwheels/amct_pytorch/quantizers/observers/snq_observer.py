"""SnqObserver: 16 clusters of the normalised weights of a layer (spec 6.2).

HiSilicon's AMCT manual, chapter "SnqObserver".
"""

from __future__ import annotations

from torch import Tensor

from ...config.arguments.algorithms import default_of
from ...core.params import QuantParams
from ...core.search import codebook
from ..registry import register
from ..weight_grid import with_smallest_scale
from .observation import WeightObserver


@register("SnqObserver")
class SnqObserver(WeightObserver):
    """Clusters a weight [C_out, ...], normalised by its largest absolute value per channel or as a whole.

    Deterministic.

    Args:
      object_layer: Layer named in messages.
      num_bits: 4.
      max_iteration: Largest number of k-means rounds, [500, 2000], default 1000.
      cali_min_distance: The clustering ends when no centroid moves further, [1e-10, 1e-3], default 1e-10.
      channel_wise: Normalises every output channel by itself, default True.
      init_algo: First centroids: "uniform" (default), "gaussian" or "d2sampling".

    Raises:
      ConfigError: An argument is outside its range.
    """

    def __init__(
        self,
        object_layer: str = "",
        num_bits: int = default_of("SnqObserver", "num_bits", is_weight=True),
        max_iteration: int = default_of("SnqObserver", "max_iteration", is_weight=True),
        cali_min_distance: float = default_of("SnqObserver", "cali_min_distance", is_weight=True),
        channel_wise: bool = default_of("SnqObserver", "channel_wise", is_weight=True),
        init_algo: str = default_of("SnqObserver", "init_algo", is_weight=True),
    ) -> None:
        super().__init__(num_bits=num_bits, object_layer=object_layer)
        self.max_iteration = max_iteration
        self.cali_min_distance = cali_min_distance
        self.channel_wise = channel_wise
        self.init_algo = init_algo

    def weight_params(self, weight: Tensor, bias: Tensor | None = None) -> QuantParams:
        """Returns codebook, centroids and scale of ``weight``; a large ``bias`` raises the smallest scale. Pure."""
        params = codebook.snq_params(
            weight, channel_wise=self.channel_wise, max_iteration=self.max_iteration,
            min_distance=self.cali_min_distance, init_algo=self.init_algo,
        )  # fmt: skip
        return with_smallest_scale(params, bias)
