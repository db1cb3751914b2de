"""LayerSite: the nodes and inputs of one quantized layer in a float ONNX model, also as metadata in the file.

The exporter writes the sites into the model's metadata, so that a model read from its file can be quantized like the
model in memory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ..errors import ExportError
from .initializers import constant_of

SITES_KEY = "amct.layers.v1"
_WEIGHTED_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_POOLINGS = frozenset({"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"})
_SHAPE_OPS = frozenset({"Shape", "Size"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSite:
    """One layer of the float ONNX model.

    Attributes:
      nodes: Names of its nodes in graph order; one of them has the layer's name.
      inputs: For each quantizable input (the key is the ``index`` of the record) the node inputs that read it, as pairs
        of node name and input position.
    """

    nodes: tuple[str, ...]
    inputs: Mapping[int, tuple[tuple[str, int], ...]]


def main_node(nodes: Sequence[ir.Node], result: ir.Value | None) -> ir.Node:
    """Returns which of the ``nodes`` of a layer carries its name.

    The node with the weight if there is one (a Linear may be MatMul + Add), or the pooling (a 1-D one stands between
    Unsqueeze and Squeeze), else the one that makes the ``result``.
    """
    for computing in (_has_weight, _is_pooling):
        found = [node for node in nodes if computing(node)]
        if len(found) == 1:
            return found[0]
    last = result.producer() if result is not None else None
    return last if last is not None and last in nodes else nodes[-1]


def _has_weight(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in _WEIGHTED_OPS and constant_of(node.inputs[1]) is not None


def _is_pooling(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in _POOLINGS


def read_places(value: ir.Value, order: Mapping[ir.Node, int]) -> tuple[tuple[ir.Node, int], ...]:
    """Returns the nodes that read ``value``, with the position of the input, in the ``order`` of the graph.

    Nodes that only read the shape are left out, since quantizing their input would change nothing.
    """
    uses = [use for use in value.uses() if use.node.op_type not in _SHAPE_OPS]
    return tuple(sorted(((use.node, use.idx) for use in uses), key=lambda place: (order[place[0]], place[1])))


def read_sites(model: ir.Model) -> dict[str, LayerSite]:
    """Returns the sites that ``write_sites`` stored in the metadata of ``model``, in graph order.

    Raises:
        ExportError: The model has no sites, or they cannot be read.
    """
    text = model.metadata_props.get(SITES_KEY)
    if text is None:
        raise ExportError(f"The ONNX model has no metadata '{SITES_KEY}': it was not exported for quantization.")
    try:
        return {layer: _site_from_json(entry) for layer, entry in json.loads(text)["layers"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ExportError(f"The metadata '{SITES_KEY}' of the ONNX model is damaged: {error!r}.") from error


def write_sites(model: ir.Model, sites: Mapping[str, LayerSite]) -> None:
    """Stores ``sites`` in the metadata of ``model``; replaces earlier sites."""
    model.metadata_props[SITES_KEY] = _to_json(sites)


def _to_json(sites: Mapping[str, LayerSite]) -> str:
    layers = {
        layer: {"nodes": site.nodes, "inputs": {str(index): places for index, places in site.inputs.items()}}
        for layer, site in sites.items()
    }
    return json.dumps({"layers": layers})


def _site_from_json(entry: Mapping[str, object]) -> LayerSite:
    inputs: Mapping[str, list[list[object]]] = entry["inputs"]  # type: ignore[assignment]
    return LayerSite(
        nodes=tuple(entry["nodes"]),  # type: ignore[arg-type]
        inputs={
            int(index): tuple((str(node), int(at)) for node, at in places)  # type: ignore[call-overload]
            for index, places in inputs.items()
        },
    )
