"""Copies and conversions: no node at all, or a Cast."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from torch import Tensor

from ..call import Call
from ..table import handles


@handles("data", "detach", "clone", "contiguous", "cpu")
def hand_on(call: Call, input: Tensor, *args: Any, **kwargs: Any) -> ir.Value:
    """Writes nothing: a copy has the value of its original."""
    return call.value(input)


@handles(
    *("to", "type", "type_as", "float", "double", "half", "bfloat16", "int", "long", "short", "bool", "byte", "char")
)
def convert(call: Call, input: Tensor, *args: Any, **kwargs: Any) -> ir.Value:
    """Writes Cast if the type of the result differs from the input's."""
    return call.value(input, call.result.dtype)
