"""How far the values of an activation reach, from what its quantizer has kept."""

from __future__ import annotations

from ..core.affine import is_empty_range
from ..core.spec import QuantSpec
from .base import ActivationQuantizer
from .observation import RangeObserver


def reach_of(quantizer: ActivationQuantizer) -> float | None:
    """Returns the largest magnitude that the observer has found or, without one of ours, that the grid has.

    None if the observer has found nothing but zeros: the grid says nothing then (SPEC 4.3).
    """
    observer = quantizer._modules.get("observer")
    if not isinstance(observer, RangeObserver) or not observer.is_complete:
        params = quantizer.params()
        lowest, highest = params.spec.qmin - int(params.offset), params.spec.qmax - int(params.offset)
        return max(-lowest, highest) * float(params.scale)
    low, high = observer.min_val, observer.max_val
    if is_empty_range(low, high, QuantSpec(num_bits=observer.num_bits, symmetric=observer.is_symmetric)):
        return None
    return max(-float(low), float(high))
