"""The boxes of float.svg and quant.svg, made from the traced graph and what is known of its nodes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, fx

from ..backends.fx.quant_graph_module import QuantGraphModule
from ..backends.fx.read.called import callable_of
from ..backends.fx.trace.frozen import is_check
from ..graph import OpGraph
from ..nn.quantized_layer import QuantizedLayer
from ..torch_names import find
from .picture import Box, write_picture


def draw_float(traced: fx.GraphModule, graph: OpGraph, path: Path) -> None:
    """Writes the picture of the float graph."""
    write_picture(list(_boxes(traced, graph, "plain")), path)


def draw_quantized(
    quantized: QuantGraphModule, graph: OpGraph, path: Path, sqnr_db: Mapping[str, float] | None = None
) -> None:
    """Writes the picture of the quantized graph: what is quantized is coloured, what is not says why.

    ``sqnr_db`` has the SQNR of the results of nodes, by name; None if it was not measured.
    """
    known = sqnr_db or {}
    boxes = (
        dataclasses.replace(box, text=f"{box.text}, {known[box.name]:.1f} dB") if _is_shown(box, known) else box
        for box in _boxes(quantized, graph, "float")
    )
    write_picture(list(boxes), path)


def _is_shown(box: Box, sqnr_db: Mapping[str, float]) -> bool:
    return box.kind != "end" and math.isfinite(sqnr_db.get(box.name, math.nan))


def _boxes(module: fx.GraphModule, graph: OpGraph, kind: str) -> Iterator[Box]:
    drawn = _drawn(module.graph)
    for node in module.graph.nodes:
        if node not in drawn:
            continue
        inputs = tuple(one.name for one in node.all_input_nodes)
        layer = callable_of(module, node) if node.op == "call_module" else None
        if isinstance(layer, QuantizedLayer):
            yield Box(node.name, _bits(layer), "quantized", inputs, _block(graph, layer.name), _note(node, layer))
        elif node.op in ("placeholder", "output"):
            yield Box(node.name, "input" if node.op == "placeholder" else "output", "end", inputs, "", _shape(node))
        else:
            yield Box(
                node.name, _operation(graph, node), kind, inputs, _block(graph, node.name), _why(graph, node, kind)
            )


def _drawn(graph: fx.Graph) -> set[fx.Node]:
    """Returns what the picture shows: no parameters and buffers, no checks, nothing that serves checks alone."""
    drawn: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        is_read = any(user in drawn for user in node.users) or not (node.users or _is_check(node))
        if node.op != "get_attr" and (is_read or node.op in ("placeholder", "output")):
            drawn.add(node)
    return drawn


def _is_check(node: fx.Node) -> bool:
    return is_check(node) or node.target is find("torch._assert")


def _operation(graph: OpGraph, node: fx.Node) -> str:
    known = graph.nodes.get(node.name)
    return (
        known.type.removeprefix("torch.") if known is not None else str(getattr(node.target, "__name__", node.target))
    )


def _bits(layer: QuantizedLayer) -> str:
    data = "/".join(str(one.num_bits) for one in layer.activation)
    weight = f", weight {layer.weight.num_bits}" if layer.weight is not None else ""
    return f"{layer.op.name}: {data} bits{weight}"


def _note(node: fx.Node, layer: QuantizedLayer) -> str:
    quantizers: dict[str, Any] = {f"input {index}": one for index, one in enumerate(layer.activation)}
    if layer.weight is not None:
        quantizers["weight"] = layer.weight
    texts = [f"{what}: {type(one).__name__}({one.extra_repr()})" for what, one in quantizers.items()]
    return "; ".join(filter(None, [_shape(node), *texts]))


def _why(graph: OpGraph, node: fx.Node, kind: str) -> str:
    known = graph.nodes.get(node.name)
    if kind == "plain" or known is None:
        return _shape(node)
    reason = known.unquantizable or ("quant_enable is false" if known.is_quantizable else "")
    return "; ".join(filter(None, [_shape(node), f"in float: {reason}" if reason else "in float"]))


def _shape(node: fx.Node) -> str:
    value = node.meta.get("val")
    return f"shape {list(value.shape)}" if isinstance(value, Tensor) else ""


def _block(graph: OpGraph, name: str) -> str:
    known = graph.nodes.get(name)
    path = known.module_path if known is not None else None
    return path.rpartition(".")[0] if path else ""
