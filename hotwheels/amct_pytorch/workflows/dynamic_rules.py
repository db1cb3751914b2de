"""Shared rules of the dynamic path: the layers of a plan, and the completeness of a record at a save."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import IncompleteRecordError
from ..files import FileSet
from ..graph import OpGraph
from ..onnx_io.layer_sites import read_sites
from ..plan.quant_plan import QuantPlan
from ..record import LayerRecord, Record
from ..record.text_proto import write_record

if TYPE_CHECKING:
    import onnx_ir as ir

# Keys of the settings in the metadata of the float model.
WEIGHTED = "weighted_layers"  # names of the layers with weights
USES = "uses"  # for the further uses of layers: name of the use to name of the layer


def shifted_layers(graph: OpGraph) -> frozenset[str]:
    """Returns the layers whose record has a shift bit (spec 4.6)."""
    return frozenset(node.layer for node in graph if node.op is not None and node.op.has_shift)


def weighted_layers(plan: QuantPlan) -> list[str]:
    """Returns the layers whose record needs the factors of a weight."""
    return [name for name, layer in plan.layers.items() if layer.weight is not None]


def further_uses(plan: QuantPlan) -> dict[str, str]:
    """Returns, by node name, the layer name of each node that is a further use of a layer."""
    return {use: name for name, layer in plan.layers.items() for use in layer.uses if use != name}


def for_each_use(record: Record, model: ir.Model, settings: Mapping[str, Any]) -> Record:
    """Returns a record by the nodes of ``model``, in which every use of a layer has the layer's factors."""
    layer_of = {use: settings.get(USES, {}).get(use, use) for use in read_sites(model)}
    unused = {name: layer for name, layer in record.layers.items() if name not in layer_of.values()}
    uses = {use: record.layers[name] for use, name in layer_of.items() if name in record.layers}
    return Record({**uses, **unused})


def require_complete(model: ir.Model, settings: Mapping[str, Any], record: Record, path: Path, advice: str) -> None:
    """Raises IncompleteRecordError if the ``record`` in file ``path`` lacks factors that ``model`` needs.

    ``advice`` is the last sentence of the message: how to complete the record.
    """
    missing = []
    for use, site in read_sites(model).items():
        name = settings.get(USES, {}).get(use, use)
        layer = record.layers.get(name, LayerRecord())
        lacks_weight = layer.weight is None and name in settings.get(WEIGHTED, ())
        if lacks_weight or not {one.index for one in layer.activations}.issuperset(site.inputs):
            missing.append(name)
    missing = list(dict.fromkeys(missing))
    if missing:
        raise IncompleteRecordError(
            f"Calibration is not complete, '{path}' lacks factors of {len(missing)} layers: {', '.join(missing)}."
            f" {advice}"
        )


def write_update(record: Record, record_path: Path, files: FileSet) -> None:
    """Adds ``record``, the factors used by a save, as ``<record>_update.txt`` beside ``record_path`` (spec 9.8)."""
    write_record(record, record_path.with_name(f"{record_path.stem}_update.txt"), files)
