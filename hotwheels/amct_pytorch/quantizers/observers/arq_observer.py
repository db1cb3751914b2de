"""ArqObserver: the largest absolute weight, per output channel or per tensor (spec 6.1).

HiSilicon's AMCT manual, chapter "ArqObserver".
"""

from __future__ import annotations

from torch import Tensor

from ...config.arguments.algorithms import default_of
from ...core.params import QuantParams
from ...core.search.arq import eps_for_bias, weight_params
from ...core.spec import QuantSpec
from ..registry import register
from .observation import WeightObserver


@register("ArqObserver")
class ArqObserver(WeightObserver):
    """Measures a weight [C_out, ...]; symmetric, zero point 0.

    Args:
      object_layer: Layer named in messages.
      num_bits: 4 or 8, default 8.
      channel_wise: One scale per output channel (axis 0), default True.
      eps: Lower bound of every scale, default 2^-23, weight units per integer step.
      legacy_negative_full_scale: Divide by 2^(n-1) where the negative side is larger (spec 4.1).

    Raises:
      ConfigError: An argument is outside its range.
    """

    def __init__(
        self,
        object_layer: str = "",
        num_bits: int = default_of("ArqObserver", "num_bits", is_weight=True),
        channel_wise: bool = default_of("ArqObserver", "channel_wise", is_weight=True),
        eps: float = default_of("ArqObserver", "eps", is_weight=True),
        legacy_negative_full_scale: bool = default_of("ArqObserver", "legacy_negative_full_scale", is_weight=True),
    ) -> None:
        super().__init__(num_bits=num_bits, object_layer=object_layer)
        self.channel_wise = channel_wise
        self.eps = eps
        self.legacy_negative_full_scale = legacy_negative_full_scale

    @property
    def settings(self) -> tuple[float, ...]:
        """Everything besides its arguments on which `weight_params` depends."""
        return self.num_bits, self.channel_wise, self.eps, self.legacy_negative_full_scale

    def weight_params(self, weight: Tensor, bias: Tensor | None = None, factor: Tensor | None = None) -> QuantParams:
        """Returns the grid of ``weight``, or of ``weight * factor`` with one factor per output channel. Pure.

        A large ``bias`` raises the smallest scale (spec 4.3).
        """
        spec = QuantSpec(num_bits=self.num_bits, symmetric=True, channel_axis=0 if self.channel_wise else None)
        return weight_params(weight, spec, eps_for_bias(self.eps, bias), self.legacy_negative_full_scale, factor)
