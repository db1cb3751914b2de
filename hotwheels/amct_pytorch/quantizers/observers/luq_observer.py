"""LuqMseObserver: the range of least squared error of each batch; the largest of these ranges counts (spec 5.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...config.arguments.algorithms import default_of
from ...core.search.luq import batch_bound
from ...core.spec import QuantSpec
from .. import distributed
from ..meeting import meet
from ..registry import register
from .observation import RangeObserver


@register("LuqMseObserver")
class LuqMseObserver(RangeObserver):
    """Keeps the largest of the best ranges of all batches; the number of batches is not limited.

    HiSilicon's AMCT manual, chapter "LuqMseObserver".

    Args:
      object_layer: Layer named in messages.
      num_bits: 8..16, default 8.
      qscheme: "symmetric" (default), "affine", or "dynamic": affine with minimum 0 while no negative value was seen,
        symmetric from the first one on.
      quant_min: ``-2^(num_bits-1)``, which is the default.
      quant_max: ``2^(num_bits-1) - 1``, which is the default.
      search_start: Smallest factor of the range that is tried, [0.5, 1.5], default 0.5.
      search_end: Largest factor, [0.5, 1.5], default 1.5.
      steps: Number of factors that are tried (a count, not a length), default 100.

    Raises:
      ConfigError: An argument is outside its range.
    """

    keeps_updating = True
    merges_processes = True

    def __init__(
        self,
        object_layer: str = "",
        num_bits: int = default_of("LuqMseObserver", "num_bits"),
        qscheme: str = default_of("LuqMseObserver", "qscheme"),
        quant_min: int | None = None,
        quant_max: int | None = None,
        search_start: float = default_of("LuqMseObserver", "search_start"),
        search_end: float = default_of("LuqMseObserver", "search_end"),
        steps: int = default_of("LuqMseObserver", "steps"),
    ) -> None:
        super().__init__(num_bits=num_bits, object_layer=object_layer)
        spec = QuantSpec(num_bits=num_bits)
        self.quant_min = spec.qmin if quant_min is None else quant_min
        self.quant_max = spec.qmax if quant_max is None else quant_max
        self.qscheme = qscheme
        self.search_start, self.search_end, self.steps = search_start, search_end, steps
        self._has_negative = False
        self._batches = 0

    @classmethod
    def symmetry_args(cls, qscheme: str | None, with_offset: bool | None) -> dict[str, Any]:
        """Returns ``qscheme``: ``with_offset`` False gives "symmetric", True without a qscheme "affine"."""
        if with_offset is False:
            return {"qscheme": "symmetric"}
        return {"qscheme": qscheme or ("affine" if with_offset else "symmetric")}

    @property
    def is_symmetric(self) -> bool:
        """Whether the zero point is 0; with "dynamic" the data seen so far decides."""
        return self._is_symmetric_with(self._has_negative)

    @property
    def is_complete(self) -> bool:
        """Whether a batch was seen."""
        return self._batches > 0

    def make_symmetric(self) -> None:
        """Searches symmetric ranges from now on; the one already found becomes ``+-max(|min_val|, |max_val|)``."""
        if self.qscheme == "symmetric":
            return
        self.qscheme = "symmetric"
        if self.is_complete:
            self._widen(self.min_val, self.max_val)

    @property
    def progress(self) -> str:
        """How many batches were seen, as a text; one batch is enough."""
        return f"{self._batches} batches seen"

    def forget(self) -> None:
        """Starts anew with the next batch."""
        self._batches, self._has_negative = 0, False

    def _is_symmetric_with(self, has_negative: bool) -> bool:
        return self.qscheme == "symmetric" or (self.qscheme == "dynamic" and has_negative)

    def update(self, samples: Tensor) -> None:
        """Takes one batch and widens the range to the best range of that batch."""
        meet(f"batch {self._batches + 1} of layer '{self.object_layer}'")
        is_negative = (samples < 0).any().to(torch.float32)
        has_negative = self._has_negative or bool(distributed.maximum(is_negative))
        spec = QuantSpec(num_bits=self.num_bits, symmetric=self._is_symmetric_with(has_negative))
        low, high = 0.0, 0.0  # of an empty batch, where other processes have one
        if samples.numel():
            low, high = batch_bound(samples, spec, self.search_start, self.search_end, self.steps)
        ends = distributed.maximum(torch.tensor([-low, high], dtype=torch.float32, device=self.min_val.device))
        self._has_negative = has_negative
        self._widen(-ends[0], ends[1])
        self._batches += 1

    def _widen(self, low: Tensor, high: Tensor) -> None:
        low, high = torch.minimum(self.min_val, low), torch.maximum(self.max_val, high)
        if self.is_symmetric:
            high = torch.maximum(-low, high)
            low = -high
        self._set_range(low.clone(), high.clone())
