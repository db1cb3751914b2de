"""The table of a quantized model that a notebook shows."""

from __future__ import annotations

import html
from collections.abc import Mapping

from ...nn.quantized_layer import QuantizedLayer

_TITLES = ("Layer", "Operation", "Tensor", "Quantizer", "Grid")


def table_of(layers: Mapping[str, QuantizedLayer], mode: str) -> str:
    """Returns an HTML table with a row for each quantized input and weight."""
    rows = []
    for name, layer in layers.items():
        quantizers = {f"input {index}": one for index, one in enumerate(layer.activation)}
        named = [*quantizers.items(), *([("weight", layer.weight)] if layer.weight is not None else [])]
        rows += [(name, layer.op.name, what, type(one).__name__, one.extra_repr()) for what, one in named]
    head = "".join(f"<th>{title}</th>" for title in _TITLES)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    caption = html.escape(f"{len(layers)} quantized layers, state {mode.lower()}")
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
