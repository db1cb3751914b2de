"""IFMRObserver: searches the range with the least squared error, after ``batch_num`` batches (spec 5.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...config.arguments.algorithms import default_of
from ...core.affine import is_empty
from ...core.search.ifmr import IfmrOptions, IfmrResult, search, search_exact
from ...core.spec import QuantSpec
from ...core.statistics.range_statistics import RangeStatistics
from ...errors import CalibrationError
from ...log import get_logger
from .. import distributed
from ..meeting import meet
from ..registry import register
from .observation import RangeObserver, not_finite

_LOGGER = get_logger(__name__)


@register("IFMRObserver")
class IFMRObserver(RangeObserver):
    """Finds the range of an activation with the smallest quantization error over ``batch_num`` batches.

    Memory does not depend on the number of batches; the statistics are dropped after the search. Under
    torch.distributed the statistics of all processes are merged. HiSilicon's AMCT manual, chapter "IFMRObserver".

    Args:
      object_layer: Layer named in messages.
      num_bits: 4 or 8..16, default 8.
      batch_num: Batches to observe, above 0, default 1; later ones are ignored.
      with_offset: False searches a symmetric range, with zero point 0.
      max_percentile: Share of the data below the initial upper end, (0.5, 1], default 0.999999.
      min_percentile: Share of the data above the initial lower end, (0.5, 1], default 0.999999.
      search_start: First factor of the upper end that is tried, default 0.7.
      search_end: Last factor that is tried, default 1.3.
      search_step: Distance of the factors, (0, search_end - search_start], default 0.01.
      search_range: ``[search_start, search_end]`` in one argument.
      qscheme: "symmetric" or "affine", synonyms of with_offset; on contradiction symmetric wins.
      exact: Stores all data and searches on it instead of on a histogram; for tests.
      legacy_negative_full_scale: Symmetric scale as in the open Ascend sibling (spec 4.1).

    Raises:
      ConfigError: An argument is outside its range.
    """

    merges_processes = True

    def __init__(
        self,
        object_layer: str = "",
        num_bits: int = default_of("IFMRObserver", "num_bits"),
        batch_num: int = default_of("IFMRObserver", "batch_num"),
        with_offset: bool = default_of("IFMRObserver", "with_offset"),
        max_percentile: float = default_of("IFMRObserver", "max_percentile"),
        min_percentile: float = default_of("IFMRObserver", "min_percentile"),
        search_start: float = default_of("IFMRObserver", "search_start"),
        search_end: float = default_of("IFMRObserver", "search_end"),
        search_step: float = default_of("IFMRObserver", "search_step"),
        qscheme: str | None = None,
        exact: bool = False,
        legacy_negative_full_scale: bool = default_of("IFMRObserver", "legacy_negative_full_scale"),
    ) -> None:
        super().__init__(num_bits=num_bits, object_layer=object_layer)
        self.batch_num = batch_num
        self.options = IfmrOptions(
            max_percentile=max_percentile, min_percentile=min_percentile,
            search_start=search_start, search_end=search_end, search_step=search_step,
        )  # fmt: skip
        self.exact = exact
        self.legacy_negative_full_scale = legacy_negative_full_scale
        self._is_symmetric = qscheme == "symmetric" or not with_offset
        self._batches = 0
        self._statistics: RangeStatistics | None = None
        self._samples: list[Tensor] = []

    @classmethod
    def symmetry_args(cls, qscheme: str | None, with_offset: bool | None) -> dict[str, Any]:
        """Returns ``with_offset``: False if either argument asks for a symmetric grid, else True."""
        return {"with_offset": with_offset is not False and qscheme != "symmetric"}

    @property
    def is_symmetric(self) -> bool:
        """Whether the zero point is 0."""
        return self._is_symmetric

    @property
    def is_complete(self) -> bool:
        """Whether ``batch_num`` batches were seen."""
        return self._batches >= self.batch_num

    def make_symmetric(self) -> None:
        """Searches a symmetric range; a range already found becomes ``+-max(|min_val|, |max_val|)``."""
        if self._is_symmetric:
            return
        self._is_symmetric = True
        if self.is_complete:
            end = torch.maximum(-self.min_val, self.max_val)
            self._set_range(-end, end)

    @property
    def progress(self) -> str:
        """How many of ``batch_num`` batches were seen, as a text."""
        return f"{self._batches} of {self.batch_num} batches seen"

    def forget(self) -> None:
        """Starts anew with the next batch."""
        self._batches, self._statistics, self._samples = 0, None, []
        self.extremes = None

    def update(self, samples: Tensor) -> None:
        """Takes one batch; the last of ``batch_num`` starts the search, later ones are ignored.

        The state changes only at the end: after an error the observer is as before.
        """
        if self.is_complete:
            return
        statistics, kept = self._statistics, self._samples
        if self.exact:
            kept = [*kept, samples.cpu().flatten().clone()]
        else:
            statistics = self._with(samples)
        if self._batches + 1 == self.batch_num:
            self._finish(statistics, kept)
            statistics, kept = None, []
        state = {"_batches": self._batches + 1, "_statistics": statistics, "_samples": kept}
        vars(self).update(state)  # torch's assignment of an attribute takes longer

    @property
    def refuses_non_finite(self) -> bool:  # type: ignore[override]
        """True with statistics, which detect NaN and inf themselves; False with ``exact``, which only keeps samples."""
        return not self.exact

    def _with(self, samples: Tensor) -> RangeStatistics:
        """Returns the statistics of the batches so far and of ``samples``, a new object."""
        statistics = self.options.new_statistics(self._spec) if self._statistics is None else self._statistics.copy()
        try:
            statistics.update(samples)
        except CalibrationError as error:
            raise not_finite(samples, self.object_layer) from error
        return statistics

    def _finish(self, statistics: RangeStatistics | None, kept: list[Tensor]) -> None:
        result, vars(self)["extremes"] = self._search(statistics, kept)
        self._store(result.low, result.high, result.scale, result.offset)
        if is_empty(result.low, result.high, self._spec):
            said = f"the calibration data is (almost) all zero; scale 1 and offset {result.offset} are used."
            _LOGGER.warning_of_layer(self.object_layer, said)

    def _search(self, statistics: RangeStatistics | None, kept: list[Tensor]) -> tuple[IfmrResult, tuple[float, float]]:
        """Returns the result of the search, and the smallest and the largest value that was searched."""
        if statistics is None:
            samples = torch.cat(kept)
            result = search_exact(samples, self._spec, self.options, self.legacy_negative_full_scale)
            return result, (float(samples.min()), float(samples.max()))
        meet(f"the search of the range of layer '{self.object_layer}'")
        merged = distributed.merge_statistics(statistics)
        if not merged.count:
            raise CalibrationError(f"Layer '{self.object_layer}': the batches of all processes were empty.")
        result = search(merged, self._spec, self.options, self.legacy_negative_full_scale)
        return result, (merged.minimum, merged.maximum)

    @property
    def _spec(self) -> QuantSpec:
        return QuantSpec(num_bits=self.num_bits, symmetric=self._is_symmetric)
