"""Tail: the exact largest values of a stream."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]

# Number of values that each tail keeps: with the default percentile the rank k reaches 128 at 128 million values.
CAPACITY = 128


class Tail:
    """Keeps the ``capacity`` largest values offered, exactly. The smallest values are the Tail of the negated ones.

    Attributes:
      values: Float32, ascending.
      capacity: How many are kept.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.values: Values = np.empty(0, dtype=np.float32)
        self.capacity = capacity

    @property
    def floor(self) -> float:
        """The smallest value kept, which a new value must exceed to be kept; -inf while there is room."""
        return float(self.values[0]) if self.values.size == self.capacity else -np.inf

    def push(self, values: Values) -> Values:
        """Adds ``values``; returns, ascending, those new and old values that are not among the largest ones."""
        pool = np.sort(np.concatenate((self.values, values)))
        cut = max(0, pool.size - self.capacity)
        self.values = pool[cut:]
        return pool[:cut]
