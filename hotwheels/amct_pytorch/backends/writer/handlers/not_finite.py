"""NaN and the infinities."""

from __future__ import annotations

import torch
from torch import Tensor

from ..call import Call
from ..table import REFUSED, Written, handles


@handles("isnan")
def isnan(call: Call, input: Tensor) -> Written:
    """Writes IsNaN."""
    return call.op("IsNaN", call.value(input)) if input.is_floating_point() else REFUSED


@handles("isinf")
def isinf(call: Call, input: Tensor) -> Written:
    """Writes IsInf."""
    return call.op("IsInf", call.value(input)) if input.is_floating_point() else REFUSED


@handles("nan_to_num")
def nan_to_num(
    call: Call, input: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Written:
    """Writes Where for NaN and for the infinities, which by default become the largest numbers."""
    if not input.is_floating_point():
        return call.value(input)
    ends, x = torch.finfo(input.dtype), call.value(input)
    replacements = (
        (call.op("IsNaN", x), 0.0 if nan is None else nan),
        (call.op("IsInf", x, detect_negative=0, detect_positive=1), ends.max if posinf is None else posinf),
        (call.op("IsInf", x, detect_negative=1, detect_positive=0), ends.min if neginf is None else neginf),
    )
    result = x
    for is_it, number in replacements:
        result = call.op("Where", is_it, call.number(number, input.dtype), result)
    return result
