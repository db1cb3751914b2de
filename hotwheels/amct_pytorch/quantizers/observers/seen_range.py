"""The range of an activation, from what its quantizer has kept."""

from __future__ import annotations

from ..base import ActivationQuantizer
from .observation import RangeObserver


def seen_range(quantizer: ActivationQuantizer) -> tuple[float, float]:
    """Returns the smallest and the largest value seen, 0 included, if the observer has kept them.

    Else what the grid spans, which is wider if it is symmetric. All zeros: (0, 0), if the observer knows.
    """
    observer = quantizer._modules.get("observer")
    if isinstance(observer, RangeObserver) and observer.extremes is not None:
        return min(0.0, observer.extremes[0]), max(0.0, observer.extremes[1])
    params = quantizer.params()
    offset, scale = int(params.offset), float(params.scale)
    return (params.spec.qmin - offset) * scale, (params.spec.qmax - offset) * scale
