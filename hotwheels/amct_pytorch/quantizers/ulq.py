"""ULQ: both ends of an activation's range are learned (spec 5.2).

HiSilicon's AMCT manual, chapter "ULQ data quantization" [ULQ数据量化算法].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..config.arguments.algorithms import default_of
from ..core import native
from ..core.affine import affine_params
from ..core.params import QuantParams
from ..core.spec import SMALLEST_SCALE, QuantSpec
from . import distributed
from .arguments import make_observer
from .base import ActivationQuantizer, no_gradients
from .learning import gradients
from .learning.learned_range import learned_range
from .observers.ifmr_observer import IFMRObserver
from .observers.observation import RangeObserver
from .registry import register


@register("UlqFakeQuantize")
class UlqFakeQuantize(ActivationQuantizer):
    """Learns ``clip_max`` and ``clip_min``, the real values of Qmax and Qmin; an observer finds their first values.

    If a step makes the range impossible, the next forward with gradients restores the values of the forward before
    (buffers ``previous_max``, ``previous_min``).

    Args:
      observer: IFMRObserver (default) or LuqMseObserver; finds the first range.
      num_bits: 4 or 8..16, default 8.
      fixed_min: Keeps ``clip_min`` at 0, for data behind a ReLU. A symmetric grid ignores it.
      clip_max: First ``clip_max``, above 0, instead of the observer's.
      clip_min: First ``clip_min``, below 0, instead of the observer's.
      object_layer: Layer named in messages.
      **observer_args: Arguments of the observer, such as batch_num or with_offset; with_offset False makes the grid
        symmetric, ``clip_min`` is ``-clip_max`` then.

    Raises:
      ConfigError: An argument is outside its range.
    """

    finds_nan = True
    _last_numbers: tuple[tuple[float, float, bool, int], tuple[float, int, int]] | None = None
    observer: RangeObserver
    previous_max: Tensor
    previous_min: Tensor

    def __init__(
        self,
        observer: type[RangeObserver] = IFMRObserver,
        num_bits: int = default_of("UlqFakeQuantize", "num_bits"),
        fixed_min: bool = default_of("UlqFakeQuantize", "fixed_min"),
        clip_max: float | None = None,
        clip_min: float | None = None,
        object_layer: str = "",
        **observer_args: Any,
    ) -> None:
        source = make_observer(observer, RangeObserver, object_layer, num_bits=num_bits, **observer_args)
        is_symmetric = source.is_symmetric
        # No calibration is needed if both ends are configured, or the upper end if it determines the lower end.
        is_given = clip_max is not None and (clip_min is not None or fixed_min or is_symmetric)
        settings = {"symmetric": int(is_symmetric), "fixed_min": int(fixed_min)}
        super().__init__(
            num_bits=num_bits, layer_name=object_layer, is_symmetric=is_symmetric, is_calibrated=is_given,
            settings=settings,
        )  # fmt: skip
        self.fixed_min = fixed_min
        self.given_max, self.given_min = clip_max, clip_min
        self._last_grid: tuple[tuple[float, float, bool, int] | None, QuantParams] | None = None
        self.clip_max = nn.Parameter(torch.ones(()))
        self.clip_min = nn.Parameter(torch.zeros(()))
        self.register_buffer("previous_max", torch.ones(()))
        self.register_buffer("previous_min", torch.zeros(()))
        self.observer = source
        self._mark_learned()
        if is_given:
            with torch.no_grad():
                self._seed(torch.zeros(()), torch.zeros(()))

    def _take(self, samples: Tensor) -> bool:
        self.observer.update(samples)
        if self.observer.is_complete:
            self._set_symmetric(self.observer.is_symmetric)
            self._seed(*self.observer.clip_range())
        return self.observer.is_complete

    def _seed(self, low: Tensor, high: Tensor) -> None:
        """Stores the first range: ends from the configuration replace the observed ends."""
        high = high if self.given_max is None else torch.tensor(self.given_max)
        low = low if self.given_min is None else torch.tensor(self.given_min)
        self.clip_max.copy_(high)
        self.clip_min.copy_(self._lower_end(low, high))
        self._mark_learned()
        self._remember()

    def _lower_end(self, low: Tensor, high: Tensor) -> Tensor:
        """Returns -high for a symmetric grid, 0 with ``fixed_min``, else ``low``."""
        if self.is_symmetric:
            return -high
        return torch.zeros_like(low) if self.fixed_min else low

    def _mark_learned(self) -> None:
        """Sets ``requires_grad``: False for a lower end that follows from the upper end, as DDP would wait for it."""
        super()._mark_learned()
        lower, learns = self.clip_min, self._is_in_use and not self.is_symmetric and not self.fixed_min
        if lower.requires_grad != learns:
            lower.requires_grad_(learns)

    @torch.no_grad()
    def raise_lower_end(self, low: float) -> bool:
        """See `ActivationQuantizer.raise_lower_end`."""
        is_free = not (self.is_symmetric or self.fixed_min or self.is_fixed) and self.given_min is None
        if not is_free or float(self.clip_min) >= low:
            return False
        self.clip_min.fill_(low)
        self._remember()
        return True

    def _remember(self) -> None:
        self.previous_max.copy_(self.clip_max)
        self.previous_min.copy_(self.clip_min)

    @property
    def is_finished(self) -> bool:
        """Whether further batches change nothing; a loaded, given or trained range is kept by every observer."""
        if not self.is_calibrated or not self.observer.keeps_updating:
            return self.is_calibrated
        is_seed = self.given_max is None and torch.equal(self.clip_max, self.observer.clip_range()[1])
        return self._was_given_elsewhere or not is_seed

    def _guarded(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (low, high), with the previous values if these are no range around zero (spec 5.2).

        NaN is kept, so that an error reports it: a step that made the range NaN has probably damaged the weights too.
        """
        low = self._lower_end(low, high)
        if low.device.type == "cpu" and _is_wide(low.item(), high.item()):
            return low, high
        is_collapsed = high - low <= SMALLEST_SCALE
        new_high = torch.where(is_collapsed | (high < 0), self.previous_max, high)
        new_low = torch.where(is_collapsed | ((high >= 0) & (low > 0)), self.previous_min, low)
        return self._lower_end(new_low, new_high), new_high

    def params(self) -> QuantParams:
        """Returns the grid in force, see the base class; the last one is kept, for each forward asks several times."""
        last = self._last_grid  # one read: another thread may replace it
        if type(self) is not UlqFakeQuantize or last is None or last[0] is None or not self.is_calibrated:
            return super().params()
        return last[1] if last[0] == self._wide_key() else super().params()

    def _grid(self) -> QuantParams:
        last = self._last_grid  # one read: another thread may replace it
        if last is not None and last[0] is not None and last[0] == self._wide_key():
            return last[1]
        return self._grid_of(*self._guarded(self.clip_min.detach(), self.clip_max.detach()))

    def step_and_ends(self) -> tuple[float, int, int]:
        """Returns the grid as numbers, see the base class; those of the last grid are kept, for each forward asks."""
        self._require_calibrated()
        last, key = self._last_numbers, self._wide_key()  # one read: another thread may replace it
        if last is not None and last[0] == key:
            return last[1]
        numbers = super().step_and_ends()
        if type(self) is UlqFakeQuantize:  # the grid of a derived class may depend on more
            self._last_numbers = None if key is None else (key, numbers)
        return numbers

    def rounded(self, x: Tensor) -> Tensor:
        """Returns ``fake_quantize(x)`` of a floating tensor, without gradient."""
        if type(self) is not UlqFakeQuantize or torch.is_grad_enabled() or not native.handles(x):
            return super().rounded(x)
        out = torch.empty_like(x)
        native.fake_quantize(x, out, *self.step_and_ends())
        return out

    def _grid_of(self, low: Tensor, high: Tensor) -> QuantParams:
        """Returns the grid of [low, high]; the last grid is cached, since a layer asks for it several times."""
        is_symmetric = self.is_symmetric
        key = (low.item(), high.item(), is_symmetric, self.num_bits) if low.device.type == "cpu" else None
        last = self._last_grid
        if last is None or key is None or key != last[0]:
            with no_gradients():  # tensors made in inference mode could not be saved for a later backward
                spec = QuantSpec(num_bits=self.num_bits, symmetric=is_symmetric)
                scale, offset = affine_params(low, high, spec)
            last = self._last_grid = key, QuantParams(scale=scale, offset=offset, num_bits=self.num_bits)
        return last[1]

    def _wide_key(self) -> tuple[float, float, bool, int] | None:
        """Returns the key of the grid of the present ends; None on a device, or if `_guarded` may change the ends."""
        ends = self._parameters  # read for each forward: torch's lookup of an attribute takes longer
        upper, lower = ends["clip_max"], ends["clip_min"]
        assert upper is not None and lower is not None
        if not upper.is_cpu:
            return None
        high, is_symmetric = upper.item(), self.is_symmetric
        low = -high if is_symmetric else 0.0 if self.fixed_min else lower.item()
        return (low, high, is_symmetric, self.num_bits) if _is_wide(low, high) else None

    def _round(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return gradients.straight_through(x, self.params())
        params = self._keep_guarded()
        low = -self.clip_max if self.is_symmetric else self.clip_min
        return learned_range(x, low, self.clip_max, params, on_nan=self._refuse_nan if self.training else None)

    def _keep_guarded(self) -> QuantParams:
        """Guards the ends, stores them as present and previous values, returns the grid; in training averages ranks."""
        with torch.no_grad():
            low, high = self.clip_min.detach(), self.clip_max.detach()
            # Not in evaluation: it may run on one rank only, which would wait for the others for ever.
            if self.training and distributed.is_distributed():
                low, high = distributed.average(torch.stack([low, high])).unbind()
            low, high = self._guarded(low, high)
            params = self._require_numbers(self._grid_of(low, high))
            self.clip_min.copy_(low)
            self.clip_max.copy_(high)
            self._remember()
        return params

    def _force_symmetric(self) -> None:
        self.observer.make_symmetric()
        self._set_symmetric(True)
        if self.observer.is_complete:
            self._seed(*self.observer.clip_range())
        elif self.is_calibrated and self._found_here:  # the configuration gave both ends
            self.given_max = float(torch.maximum(-self.clip_min, self.clip_max))
            self._seed(self.clip_min, self.clip_max)
        self._mark_learned()


def _is_wide(low: float, high: float) -> bool:
    """Whether the range is clearly possible; this test is cheaper than the dozen tensor operations of `_guarded`."""
    return low <= 0 <= high and high - low > 2 * SMALLEST_SCALE
