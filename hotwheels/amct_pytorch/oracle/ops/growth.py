"""Growth: results that are far larger than what they are made of are refused before memory is taken for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files.limits import NODE_RESULT

_FACTOR = 64


def check_growth(shape: Iterable[float], inputs: Sequence[Any]) -> None:
    """Raises ValueError if a result of ``shape`` is beyond the limit and 64 times as large as all ``inputs``."""
    count = int(math.prod(shape))
    if count > max(NODE_RESULT.most, _FACTOR * sum(np.size(one) for one in inputs if one is not None)):
        raise ValueError(f"its result would have {count:,} elements; at most {NODE_RESULT.most:,} are computed.")


def check_broadcast(inputs: Sequence[Any]) -> None:
    """Raises ValueError if ``inputs`` stretched to one shape are beyond the limit; another misfit is left to NumPy."""
    try:
        shape = np.broadcast_shapes(*(np.shape(one) for one in inputs if one is not None))
    except ValueError:
        return
    check_growth(shape, inputs)


def matmul(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """Returns ``np.matmul(left, right)``; an outer product beyond the limit is refused."""
    if left.ndim > 1 and right.ndim > 1:
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        check_growth((*batch, left.shape[-2], right.shape[-1]), [left, right])
    return np.asarray(np.matmul(left, right))
