"""Finds the values of an exported model into which a mask has put -inf or a number that would determine a grid's range.

The rule is that of the FX path (`fx.read.masked`), on ONNX nodes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ....onnx_io.initializers import constant_of
from ...calls.mask_values import is_mask

_SUMS = frozenset({"Add", "Sub"})
_FILLS = frozenset({"Where", "ScatterND", "ScatterElements"})
_PRODUCTS = frozenset({"Mul", "Div", "Neg"})
_MOVES = frozenset(
    {
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Slice",
        "Gather",
        "Expand",
        "Identity",
        "Cast",
        "Concat",
    }
    | {"Split", "Input", "Output"}  # the last two are markers of layers
)


def masked_values(model: ir.Model) -> frozenset[ir.Value]:
    """Returns the values that mix data with a mask, or are masks that depend on the data, if only on its size."""
    mixed: set[ir.Value] = set()
    pure: set[ir.Value] = set()
    for node in model.graph:
        kind = node.op_type
        if kind not in _MOVES | _SUMS | _FILLS | _PRODUCTS:
            continue
        given = [one for one in node.inputs if one is not None]
        has_mask = any(one in pure or _is_constant_mask(one) for one in given)
        if any(one in mixed for one in given):
            mixed.update(node.outputs)
        elif has_mask:
            (mixed if kind in _SUMS | _FILLS else pure).update(node.outputs)
    return frozenset(mixed | pure)


def _is_constant_mask(value: ir.Value) -> bool:
    content = constant_of(value)
    return content is not None and np.issubdtype(content.dtype, np.floating) and is_mask(content)
