"""Fixed: scale and zero point come from the configuration (spec 6.5).

HiSilicon's AMCT manual, chapter "Fixed quantization" [Fixed量化算法].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..config.arguments.algorithms import default_of
from ..core.affine import canonical_scale
from ..core.params import QuantParams
from ..errors import ConfigError
from .base import ActivationQuantizer, WeightQuantizer
from .learning import gradients
from .registry import register
from .weight_grid import GridOrigin


@register("FixedFakeQuantize")
class FixedFakeQuantize(ActivationQuantizer):
    """Quantizes an activation with a given grid; nothing is calibrated or learned.

    Args:
      scale: Input units per integer step, above 0.
      zero_point: Integer that stands for 0.0, an int or an integral float in [Qmin, Qmax].
      num_bits: 4 or 8..16, default 8.
      object_layer: Layer named in messages.

    Raises:
      ConfigError: An argument is outside its range.
    """

    is_fixed = True
    whole_numbers = ("fixed_offset",)
    fixed_scale: Tensor
    fixed_offset: Tensor

    def __init__(
        self,
        scale: float,
        zero_point: int,
        num_bits: int = default_of("FixedFakeQuantize", "num_bits"),
        object_layer: str = "",
    ) -> None:
        super().__init__(num_bits=num_bits, layer_name=object_layer, is_symmetric=zero_point == 0, is_calibrated=True)
        self.register_buffer("fixed_scale", _canonical(scale, object_layer))
        self.register_buffer("fixed_offset", torch.tensor(float(zero_point)))

    def _take(self, samples: Tensor) -> bool:
        return True

    def _grid(self) -> QuantParams:
        offset = self.fixed_offset.round().to(torch.int32)
        return QuantParams(scale=canonical_scale(self.fixed_scale), offset=offset, num_bits=self.num_bits)

    def _round(self, x: Tensor) -> Tensor:
        return gradients.straight_through(x, self._grid())

    def _force_symmetric(self) -> None:
        """Nothing to do: a fixed grid is symmetric or refuses."""


@register("FixedFakeQuantize")
class FixedWeightFakeQuantize(WeightQuantizer):
    """Quantizes a weight with given scales, zero point 0; nothing is calibrated or learned.

    Args:
      scale: Weight units per integer step, above 0; one number, or one per output channel.
      num_bits: 4 or 8, default 8.
      object_layer: Layer named in messages.
      channels: Number of output channels, which a list must have; None takes any.
      allows_channel_wise: Whether a list is allowed (Linear: no).

    Raises:
      ConfigError: An argument is outside its range, or a list has the wrong length.
    """

    is_fixed = True
    fixed_scale: Tensor

    grid_origin = GridOrigin.GIVEN

    def __init__(
        self,
        scale: float | Sequence[float],
        num_bits: int = default_of("FixedFakeQuantize", "num_bits", is_weight=True),
        object_layer: str = "",
        channels: int | None = None,
        allows_channel_wise: bool = True,
    ) -> None:
        values = _canonical(scale, object_layer)
        if values.numel() == 1:
            values = values.reshape(())
        _check_channels(values, channels, allows_channel_wise, object_layer)
        settings = {"channel_wise": values.dim()}
        super().__init__(num_bits=num_bits, layer_name=object_layer, is_calibrated=True, settings=settings)
        self.channel_wise = values.dim() == 1
        self.register_buffer("fixed_scale", values)

    def _take(self, samples: Tensor) -> bool:
        return True

    def _grid(self, weight: Tensor, bias: Tensor | None) -> QuantParams:
        offset = torch.zeros_like(self.fixed_scale, dtype=torch.int32)
        return QuantParams(scale=canonical_scale(self.fixed_scale), offset=offset, num_bits=self.num_bits)

    def _round(self, weight: Tensor, params: QuantParams) -> Tensor:
        return gradients.straight_through(weight, params)

    def _scale_in_force(self) -> Tensor:
        return self.fixed_scale


def _canonical(scale: float | Sequence[float], layer: str) -> Tensor:
    values = canonical_scale(torch.tensor(scale, dtype=torch.float32))
    if not bool((torch.isfinite(values) & (values > 0)).all()):
        raise ConfigError(f"Layer '{layer}': scale of FixedFakeQuantize must be positive and finite, got {scale!r}.")
    return values


def _check_channels(values: Tensor, channels: int | None, allows_channel_wise: bool, layer: str) -> None:
    if values.dim() == 0:
        return
    if not allows_channel_wise:
        msg = f"Layer '{layer}' has no channels: scale of FixedFakeQuantize must be one number, got {values.numel()}."
        raise ConfigError(msg)
    if channels is not None and values.numel() != channels:
        msg = (
            f"Layer '{layer}' has {channels} output channels, but scale of FixedFakeQuantize has {values.numel()} "
            "values; give one number or one per channel."
        )
        raise ConfigError(msg)
