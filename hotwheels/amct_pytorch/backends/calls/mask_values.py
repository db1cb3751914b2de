"""What makes a constant a mask on scores, which no grid should hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MASKED = "a mask has put -inf or a value below -1e4 into its input, which no grid contains, or which would widen it"
_LARGE = 1e4  # what the usual finite masks have at least: -1e4 (BERT), -1e9, torch.finfo(...).min


def is_mask(values: NDArray[Any]) -> bool:
    """Whether a value is infinite, or below -1e4: a grid with it would have no levels left for scores."""
    return bool(values.size) and bool(np.isinf(values).any() or values.min() <= -_LARGE)
