"""Times alternatives in turn, so that a busy machine slows all of them alike."""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

Clock = Callable[[], float]
CLOCKS: Mapping[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclasses.dataclass(frozen=True)
class Alternative:
    """A computation to be timed.

    Attributes:
      run: The timed function; its argument is the result of ``prepare``.
      prepare: Makes the argument; not timed.
    """

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of one alternative, one entry per round."""

    seconds: tuple[float, ...]

    @property
    def least(self) -> float:
        """The least time; other load of the machine can only add to it."""
        return min(self.seconds)

    def ratio(self, base: Times) -> float:
        """Least time over least time of ``base``."""
        return self.least / base.least

    def median_ratio(self, base: Times) -> float:
        """Median of the rounds' ratios, as a check on ``ratio``."""
        return statistics.median(ours / theirs for ours, theirs in zip(self.seconds, base.seconds, strict=True))

    def spread(self, base: Times) -> float:
        """Distance of the quartiles of the rounds' ratios; of the extremes for fewer than four rounds."""
        ratios = sorted(ours / theirs for ours, theirs in zip(self.seconds, base.seconds, strict=True))
        if len(ratios) < 4:
            return ratios[-1] - ratios[0]
        low, _, high = statistics.quantiles(ratios, n=4)
        return high - low


def interleaved(alternatives: Mapping[str, Alternative], rounds: int, clock: Clock, title: str) -> dict[str, Times]:
    """Runs every alternative once per round, in turn; a first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    with tqdm(total=(rounds + 1) * len(alternatives), desc=title, unit="run") as progress:
        for _ in range(rounds + 1):
            for name, alternative in alternatives.items():
                progress.set_postfix_str(name)
                seconds[name].append(_timed(alternative, clock))
                progress.update()
    return {name: Times(tuple(values[1:])) for name, values in seconds.items()}


def _timed(alternative: Alternative, clock: Clock) -> float:
    prepared = alternative.prepare()
    gc.collect()
    started = clock()
    result = alternative.run(prepared)
    stopped = clock()
    del result  # freeing it is not part of what is measured
    return stopped - started
