"""LayerSite: where in a float ONNX model one quantized layer is, and how the file itself remembers the place.

Whoever exports the float model leaves the sites behind as model metadata, so that a model read from its file is as good
as the one in memory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import onnx_ir as ir

from ..errors import ExportError

SITES_KEY = "amct.layers.v1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSite:
    """One layer of the float ONNX model.

    Attributes:
      nodes: Names of its nodes in graph order; one of them is called as the layer.
      inputs: For each quantizable input (the key is the ``index`` of the record) the places which read it: pairs of
        node name and input position.
    """

    nodes: tuple[str, ...]
    inputs: Mapping[int, tuple[tuple[str, int], ...]]


def read_sites(model: ir.Model) -> dict[str, LayerSite]:
    """Returns the sites which ``write_sites`` left in the metadata of ``model``, in graph order.

    Raises:
        ExportError: The model has none, or they cannot be read.
    """
    text = model.metadata_props.get(SITES_KEY)
    if text is None:
        raise ExportError(f"The ONNX model has no metadata '{SITES_KEY}': it was not exported for quantization.")
    try:
        return {layer: _site_from_json(entry) for layer, entry in json.loads(text)["layers"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"The metadata '{SITES_KEY}' of the ONNX model is damaged: {error!r}.") from error


def write_sites(model: ir.Model, sites: Mapping[str, LayerSite]) -> None:
    """Leaves ``sites`` in the metadata of ``model``, in place of what is there."""
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
