"""SnqObserver: 16 clusters of the normalised weights of a layer (SPEC 6.2, manual: SnqObserver)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core import codebook
from ..core.params import QuantParams
from ..errors import CalibrationError
from .arguments import check_arguments
from .observation import finite_samples
from .registry import register
from .torch_base import ObserverBase


@register("SnqObserver")
class SnqObserver(ObserverBase):
    """Clusters a weight [C_out, ...], normalised by its largest absolute value per channel or as a whole.

    Deterministic. Manual: SnqObserver.

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
        num_bits: int = 4,
        max_iteration: int = 1000,
        cali_min_distance: float = 1e-10,
        channel_wise: bool = True,
        init_algo: str = "uniform",
    ) -> None:
        num_bits = check_arguments(SnqObserver, True, locals())["num_bits"]
        super().__init__(dtype=torch.qint8)
        self.object_layer = object_layer
        self.num_bits = num_bits
        self.max_iteration = max_iteration
        self.cali_min_distance = cali_min_distance
        self.channel_wise = channel_wise
        self.init_algo = init_algo
        self._last: QuantParams | None = None

    def weight_params(self, weight: Tensor) -> QuantParams:
        """Returns codebook, centroids and scale of ``weight``. Pure."""
        return codebook.snq_params(
            weight, channel_wise=self.channel_wise, max_iteration=self.max_iteration,
            min_distance=self.cali_min_distance, init_algo=self.init_algo,
        )  # fmt: skip

    def forward(self, weight: Any) -> Any:
        """Clusters ``weight`` and returns it unchanged."""
        samples = finite_samples(weight, self.object_layer)
        if samples is not None:
            self._last = self.weight_params(samples)
        return weight

    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Returns (scale, zero_point) of the last weight, of shape [C_out] or [1].

        Raises:
          CalibrationError: No weight was observed.
        """
        if self._last is None:
            raise CalibrationError(f"Layer '{self.object_layer}': SnqObserver has not seen a weight yet.")
        return self._last.scale.reshape(-1), self._last.offset.reshape(-1)
