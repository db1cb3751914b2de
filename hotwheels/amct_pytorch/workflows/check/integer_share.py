"""The share of a model's multiplications that run on integers."""

from __future__ import annotations

from typing import Any

from ...backends.fx.quant_graph_module import QuantGraphModule
from ...backends.fx.read.multiplications import count_multiplications
from ...plan.integer_share import IntegerShare, integer_share
from ..kept_state import copies_of


def measured_share(quantized: QuantGraphModule, inputs: tuple[Any, ...]) -> IntegerShare | None:
    """Returns the share for a forward of the calibrated model ``quantized``.

    Returns None for a model without its operation graph: one that was loaded from source, or unpickled.
    """
    if quantized.origin is None:
        return None
    counted = count_multiplications(quantized, copies_of(inputs))
    on_integers = frozenset(name for name, layer in quantized.quantized_layers.items() if layer.is_quantized)
    return integer_share(counted, on_integers, quantized.origin.model.graph)
