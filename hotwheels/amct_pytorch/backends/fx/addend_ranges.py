"""Ranges of addends whose sum goes through a ReLU: levels for what the ReLU cuts off are given up."""

from __future__ import annotations

import collections
from collections.abc import Mapping

from torch import Tensor, fx

from ...core.affine import real_ends
from ...nn.quantized_layer import QuantizedLayer
from ...quantizers.base import ActivationQuantizer
from .activation_behind import activation_behind
from .read.called import callable_of

_NO_GAIN = 2.1  # half steps: a range that was cut begins about one step beyond the cut, as its offset is an integer


def cut_addends(model: fx.GraphModule, layers: Mapping[str, QuantizedLayer]) -> tuple[str, ...]:
    """Raises lower ends of calibrated ranges of ``layers``, in place; returns the names of the layers concerned.

    If the sum a + b is read by a ReLU or ReLU6 alone, and the grid of b ends at B, then each a below -B gives 0. The
    range of a may end there, with smaller steps for the rest, and no result changes by the cut itself. Done where both
    addends are quantized, no other input shares the quantizer, and the range is asymmetric and found by calibration.
    """
    uses = collections.Counter(id(one) for layer in layers.values() for one in layer.activation)
    cut = []
    for node in model.graph.nodes:
        layer = callable_of(model, node) if node.op == "call_module" else None
        if isinstance(layer, QuantizedLayer) and _is_sum(layer, node) and activation_behind(model, node) is not None:
            first, second = layer.activation
            changed = [_cut(*pair) for pair in ((first, second), (second, first)) if uses[id(pair[0])] == 1]
            if any(changed):
                cut.append(layer.name)
    return tuple(cut)


def _is_sum(layer: QuantizedLayer, node: fx.Node) -> bool:
    """Whether the layer adds two quantized tensors, without a factor."""
    is_plain = len(node.args) == 2 and all(isinstance(one, fx.Node) for one in node.args) and not node.kwargs
    return is_plain and layer.op.name == "add" and layer.is_quantized and len(layer.activation) == 2


def _cut(quantizer: ActivationQuantizer, other: ActivationQuantizer) -> bool:
    """Raises the lower end of ``quantizer`` to the negative upper end of ``other``, less half a step for rounding."""
    low, (begin, end) = -_ends(other)[1], _ends(quantizer)
    half_step = (end - low) / (2 * (2**quantizer.num_bits - 1))
    if begin > low - _NO_GAIN * half_step:
        return False
    return quantizer.raise_lower_end(float(low - half_step))


def _ends(quantizer: ActivationQuantizer) -> tuple[Tensor, Tensor]:
    params = quantizer.params()
    return real_ends(params.scale, params.offset, params.num_bits)
