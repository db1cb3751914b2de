"""LayerSite: where in a float ONNX model one quantized layer stands, and how the file itself remembers it.

The float model is exported with marker nodes (``amct_marker::Input``, ``amct_marker::Output``) around each layer.
Resolving removes them, names the nodes after the layers and leaves the sites behind as model metadata, so that a
model read from its file is as good as the one in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

MARKER_DOMAIN = "amct_marker"
INPUT_MARKER = "Input"  # attributes: layer (string), index (int); one input, one output
OUTPUT_MARKER = "Output"  # attributes: layer (string); one input, one output
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
