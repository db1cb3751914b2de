"""LUQ: one learned end of the range, for activations and for weights (spec 5.3).

HiSilicon's AMCT manual, chapter "LUQ quantization" [LUQ量化算法].
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..config.arguments.algorithms import default_of
from ..core.params import QuantParams
from ..core.search.luq import luq_params
from ..core.spec import QuantSpec
from ..log import get_logger
from . import distributed
from .arguments import make_observer, symmetry_args
from .base import ActivationQuantizer, WeightQuantizer
from .learning import gradients
from .learning.learned_range import learned_range
from .observers.luq_observer import LuqMseObserver
from .observers.observation import RangeObserver
from .registry import register
from .settings import DYNAMIC
from .weight_grid import GridOrigin, with_smallest_scale

_LOGGER = get_logger(__name__)


@register("LuqActivationFakeQuantize")
class LuqActivationFakeQuantize(ActivationQuantizer):
    """Learns the upper end ``max_value`` of the range; the lower end is ``-max_value`` or fixed by calibration.

    Args:
      observer: LuqMseObserver (default) or IFMRObserver; finds the first range.
      num_bits: 8..16, default 8.
      max_value_eps: Smallest max_value, above 0, in input units.
      qscheme: "symmetric", "affine" or "dynamic"; None leaves it to the observer.
      with_offset: False means the same as qscheme "symmetric", True the same as "affine"; symmetric wins.
      object_layer: Layer named in messages.
      **observer_args: Arguments of the observer, such as batch_num or steps.

    Raises:
      ConfigError: An argument is outside its range.
    """

    finds_nan = True
    observer: RangeObserver
    min_value: Tensor

    def __init__(
        self,
        observer: type[RangeObserver] = LuqMseObserver,
        num_bits: int = default_of("LuqActivationFakeQuantize", "num_bits"),
        max_value_eps: float = default_of("LuqActivationFakeQuantize", "max_value_eps"),
        qscheme: str | None = None,
        with_offset: bool | None = None,
        object_layer: str = "",
        **observer_args: Any,
    ) -> None:
        observer_args |= symmetry_args(observer, qscheme, with_offset)
        source = make_observer(observer, RangeObserver, object_layer, num_bits=num_bits, **observer_args)
        is_dynamic = getattr(source, "qscheme", None) == "dynamic"
        settings = {"symmetric": DYNAMIC if is_dynamic else int(source.is_symmetric)}
        super().__init__(
            num_bits=num_bits, layer_name=object_layer, is_symmetric=source.is_symmetric, settings=settings
        )
        self.max_value_eps = max_value_eps
        self.max_value = nn.Parameter(torch.ones(()))
        self.register_buffer("min_value", torch.zeros(()))
        self.observer = source

    def _take(self, samples: Tensor) -> bool:
        self.observer.update(samples)
        if self.observer.is_complete:
            self._set_symmetric(self.observer.is_symmetric)
            self._seed()
        return self.observer.is_complete

    def _seed(self) -> None:
        if not self.is_calibrated and self.observer.max_val < self.max_value_eps:
            eps = f"max_value_eps {self.max_value_eps:g}"
            said = f"the calibration data is (almost) all zero; {eps} is used as its range."
            _LOGGER.warning_of_layer(self.layer_name, said)
        self.min_value.copy_(self.observer.min_val)
        self.max_value.copy_(self._seeded_value())

    def _seeded_value(self) -> Tensor:
        return torch.clamp(self.observer.max_val, min=self.max_value_eps)

    @property
    def is_finished(self) -> bool:
        """Whether further batches change nothing; a loaded or trained end is kept even if the observer has no limit."""
        if not self.is_calibrated or not self.observer.keeps_updating:
            return self.is_calibrated
        return self._was_given_elsewhere or not torch.equal(self.max_value, self._seeded_value())

    def _grid(self) -> QuantParams:
        spec = QuantSpec(num_bits=self.num_bits, symmetric=self.is_symmetric)
        return luq_params(self.max_value, self.min_value, spec, self.max_value_eps)

    def _round(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return gradients.straight_through(x, self.params())
        _keep_above(self.max_value, self.max_value_eps)
        low = -self.max_value if self.is_symmetric else self.min_value
        count = x.numel() * (distributed.process_count() if self.training else 1)
        on_nan = self._refuse_nan if self.training else None
        return learned_range(x, low, self.max_value, self.params(), _factor(count, self.num_bits), on_nan)

    def _force_symmetric(self) -> None:
        self.observer.make_symmetric()
        if self.observer.is_complete:
            self._seed()


@register("LuqWeightFakeQuantize")
class LuqWeightFakeQuantize(WeightQuantizer):
    """Learns the end ``max_value`` of a symmetric range of the whole weight.

    Args:
      observer: LuqMseObserver (default); finds the first range.
      num_bits: 8.
      max_value_eps: Smallest max_value, above 0, in weight units.
      object_layer: Layer named in messages.
      channels: Number of output channels; not used, the scale is one for the tensor.
      **observer_args: Arguments of the observer.

    Raises:
      ConfigError: An argument is outside its range.
    """

    finds_nan = True
    grid_origin = GridOrigin.GIVEN
    observer: RangeObserver

    def __init__(
        self,
        observer: type[RangeObserver] = LuqMseObserver,
        num_bits: int = default_of("LuqWeightFakeQuantize", "num_bits", is_weight=True),
        max_value_eps: float = default_of("LuqWeightFakeQuantize", "max_value_eps", is_weight=True),
        object_layer: str = "",
        channels: int | None = None,
        **observer_args: Any,
    ) -> None:
        source = make_observer(observer, RangeObserver, object_layer, num_bits=num_bits, **observer_args)
        super().__init__(num_bits=num_bits, layer_name=object_layer)
        self.max_value_eps = max_value_eps
        self.max_value = nn.Parameter(torch.ones(()))
        self.observer = source
        self.observer.make_symmetric()

    def _take(self, samples: Tensor) -> bool:
        self.observer.update(samples)
        if self.observer.is_complete:
            self.max_value.copy_(torch.clamp(self.observer.max_val, min=self.max_value_eps))
        return self.observer.is_complete

    def _grid(self, weight: Tensor, bias: Tensor | None) -> QuantParams:
        spec = QuantSpec(num_bits=self.num_bits, symmetric=True)
        return with_smallest_scale(luq_params(self.max_value, None, spec, self.max_value_eps), bias)

    def _round(self, weight: Tensor, params: QuantParams) -> Tensor:
        if torch.is_grad_enabled():
            _keep_above(self.max_value, self.max_value_eps)
        factor = _factor(weight.numel(), self.num_bits)
        on_nan = self._refuse_nan if self.training else None
        return learned_range(weight, -self.max_value, self.max_value, params, factor, on_nan)

    def _scale_in_force(self) -> Tensor:
        return self._grid(self.max_value, None).scale


def _factor(count: int, num_bits: int) -> float:
    """Returns the factor of max_value's gradient, which makes the step independent of the tensor's size (spec 5.3).

    ``count``: elements of the tensor; for an activation in distributed training the elements on all processes, so that
    the result equals that of one process with the joined batch.
    """
    return 1.0 / math.sqrt(max(1, count) * QuantSpec(num_bits=num_bits).qmax)


def _keep_above(value: nn.Parameter, smallest: float) -> None:
    """Clamps the parameter in place: a clamp in the forward would stop its gradient."""
    with torch.no_grad():
        value.clamp_(min=smallest)
