"""ARQ: the grid follows the weight on every forward (spec 6.1).

HiSilicon's AMCT manual, chapter "ARQ weight quantization" [ARQ权重量化算法].
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from ..config.arguments.algorithms import default_of
from ..core.folded_rounding import LargestWeightGrid
from ..core.params import QuantParams
from .arguments import make_observer
from .base import WeightQuantizer, no_gradients
from .learning import gradients
from .observers.arq_observer import ArqObserver
from .observers.observation import as_float
from .registry import register
from .weight_grid import GridOrigin


@register("ArqWeightFakeQuantize")
class ArqWeightFakeQuantize(WeightQuantizer):
    """Symmetric grid up to the largest absolute weight; nothing to calibrate, nothing learned, no state.

    Args:
      observer: ArqObserver.
      num_bits: 4 or 8, default 8.
      channel_wise: One scale per output channel (axis 0), default True.
      object_layer: Layer named in messages.
      channels: Number of output channels; not used.
      **observer_args: Arguments of the observer: eps, legacy_negative_full_scale.

    Raises:
      ConfigError: An argument is outside its range.
    """

    finds_nan = True

    def __init__(
        self,
        observer: type[ArqObserver] = ArqObserver,
        num_bits: int = default_of("ArqWeightFakeQuantize", "num_bits", is_weight=True),
        channel_wise: bool = default_of("ArqWeightFakeQuantize", "channel_wise", is_weight=True),
        object_layer: str = "",
        channels: int | None = None,
        **observer_args: Any,
    ) -> None:
        source = make_observer(
            observer, ArqObserver, object_layer, num_bits=num_bits, channel_wise=channel_wise, **observer_args
        )
        settings = {"channel_wise": int(channel_wise)}
        super().__init__(num_bits=num_bits, layer_name=object_layer, is_calibrated=True, settings=settings)
        self.channel_wise = channel_wise
        self.observer = source

    @property
    def grid_origin(self) -> GridOrigin:  # type: ignore[override]
        """WEIGHT (the largest weights), unless a legacy grid divides by a different number for negative weights."""
        return GridOrigin.OTHER if self.observer.legacy_negative_full_scale else GridOrigin.WEIGHT

    @property
    def largest_weight_grid(self) -> LargestWeightGrid | None:
        """The grid; None for a derived class and for a legacy grid, which depends on the sign of the largest weight."""
        observer = self._modules["observer"]
        if type(self) is not ArqWeightFakeQuantize or type(observer) is not ArqObserver:
            return None
        if observer.legacy_negative_full_scale:
            return None
        return LargestWeightGrid(observer.num_bits, observer.channel_wise, observer.eps)

    @property
    def grid_settings(self) -> Hashable | None:
        """The settings of the search, since a grid depends on nothing else; None for a derived class."""
        if type(self) is not ArqWeightFakeQuantize or type(self.observer) is not ArqObserver:
            return None
        return self.num_bits, *self.observer.settings

    def observe(self, weight: Tensor) -> None:
        """Stores the grid of ``weight``, for ``scale`` and ``calculate_qparams``; `params` uses the weight it is given.

        Raises:
          CalibrationError: ``weight`` holds NaN or inf.
        """
        with no_gradients():
            self.observer(weight)

    def _take(self, samples: Tensor) -> bool:
        return True

    def _grid(self, weight: Tensor, bias: Tensor | None) -> QuantParams:
        return self.observer.weight_params(weight, bias)

    def _round(self, weight: Tensor, params: QuantParams) -> Tensor:
        # The grid spans the whole weight, so the straight-through gradient is the identity. A mask would drop the
        # largest weights where the canonical scale is an ulp smaller than max|w| / Qmax.
        return gradients.identity_gradient(weight, params)

    def folded_params(self, weight: Tensor, factor: Tensor, bias: Tensor | None) -> QuantParams:
        """Returns ``params(weight * factor, bias)``, computed from the extremes of the rows without the product."""
        with torch.no_grad():
            return self._require_numbers(self.observer.weight_params(as_float(weight.detach()), bias, factor.detach()))

    def fake_quantize_unfolded(self, weight: Tensor, factor: Tensor, inverse: Tensor, params: QuantParams) -> Tensor:
        """Returns ``fake_quantize(weight * factor, params) * inverse``, in one kernel for dense float32 weights."""
        if weight.dtype != torch.float32 or not weight.is_contiguous():
            return super().fake_quantize_unfolded(weight, factor, inverse, params)
        return gradients.identity_gradient_unfolded(weight, factor, inverse, params)

    def _scale_in_force(self) -> Tensor | None:
        return None if self.observer.last is None else self.observer.last.scale
