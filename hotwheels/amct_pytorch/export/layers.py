"""ExportLayer: one quantized layer of an ONNX graph, with its record and the operands that the record quantizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedOpsetsPass

from ..errors import ExportError
from ..log import get_logger
from ..onnx_io.initializers import constant_of, remove_unused_initializers
from ..onnx_io.layer_sites import SITES_KEY, LayerSite
from ..onnx_io.node_access import operand
from ..onnx_io.rows_tensor import ScaledTensor
from ..record.record import ActivationRecord, LayerRecord, Record, WeightRecord
from . import quantized_constants as integers

_logger = get_logger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputRead:
    """One input of a node that reads a quantized tensor."""

    node: ir.Node
    position: int
    grid: ActivationRecord

    @property
    def value(self) -> ir.Value:
        """The value that the node reads now."""
        return operand(self.node, self.position)

    def replace(self, value: ir.Value) -> None:
        """Makes the node read ``value`` instead."""
        self.node.replace_input_with(self.position, value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightRead:
    """The weight of a layer, as input 1 of its node.

    Attributes:
      layer: Name of the layer.
      array: Real values in the layout of the operator, float32; a `ScaledTensor` is computed when it is read.
      channel_axis: Axis with one scale per index.
      groups: Groups of a ConvTranspose, whose output channels are spread over the groups; else 1.
      record: The grid.
      bias: Real values [C_out], or None.
      data_scale: Scale of the layer's first input; None if that input is not quantized.
    """

    layer: str
    array: NDArray[np.float32] | ScaledTensor
    channel_axis: int
    groups: int
    record: WeightRecord
    bias: NDArray[np.float32] | None
    data_scale: float | None

    def integers(self) -> integers.WeightIntegers:
        """Returns the integers of the weight, which are computed when they are read."""
        try:
            return integers.WeightIntegers.of(self.array, self.record, self.channel_axis, self.groups)
        except ExportError as error:
            raise ExportError(f"Layer '{self.layer}': {error}") from error

    def bias_integers(self) -> NDArray[np.int32]:
        """Returns the integers of the bias; only for a layer with bias and quantized input."""
        assert self.bias is not None and self.data_scale is not None
        try:
            return integers.quantize_bias(self.bias, self.data_scale, self.record.scale)
        except ExportError as error:
            raise ExportError(f"Layer '{self.layer}': {error}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportLayer:
    """One quantized layer: the node with its name, and the operands that the record quantizes."""

    name: str
    node: ir.Node
    record: LayerRecord
    reads: tuple[InputRead, ...]
    weight: WeightRead | None


def copy_model(model: ir.Model) -> ir.Model:
    """Returns a copy for changes: nodes and values are new, tensors are shared, the metadata of sites is removed."""
    copy = model.clone()
    copy.metadata_props.pop(SITES_KEY, None)
    return copy


def finish(model: ir.Model) -> ir.Model:
    """Removes unused initializers and operator domains of ``model`` in place; returns ``model``."""
    remove_unused_initializers(model.graph)
    RemoveUnusedOpsetsPass()(model)
    return model


def find_layers(model: ir.Model, sites: Mapping[str, LayerSite], record: Record) -> tuple[ExportLayer, ...]:
    """Returns the layers of ``record`` that ``model`` has, in graph order; a WARNING names missing layers.

    Raises:
        ExportError: The record does not fit the model: an input, a weight or a node is missing.
    """
    for name in record.layers:
        if name not in sites:
            _logger.warning("Layer '%s' of the record is not in the ONNX model: nothing uses its result.", name)
    nodes = {str(node.name): node for node in model.graph}
    found = {name: site for name, site in sites.items() if name in record.layers}
    return tuple(_layer(name, site, record.layers[name], nodes) for name, site in found.items())


def weight_layout(node: ir.Node) -> tuple[int, int]:
    """Returns (channel axis, groups) of the weight of a Conv, ConvTranspose, Gemm or MatMul node (spec 6.1)."""
    match node.op_type:
        case "Conv":
            return 0, 1
        case "ConvTranspose":
            return 1, node.attributes.get_int("group", 1)
        case "Gemm":
            return (0 if node.attributes.get_int("transB", 0) else 1), 1
        case "MatMul":
            return 1, 1
    raise ExportError(f"Layer '{node.name}' has a weight in the record, but in the ONNX model it is a {node.op_type}.")


def _layer(name: str, site: LayerSite, record: LayerRecord, nodes: Mapping[str, ir.Node]) -> ExportLayer:
    places = [place for places in site.inputs.values() for place in places]
    missing = [node for node in (name, *site.nodes, *(node for node, _ in places)) if node not in nodes]
    if missing:
        raise ExportError(f"Layer '{name}': its node '{missing[0]}' is not in the ONNX model.")
    beyond = [node for node, at in places if not 0 <= at < len(nodes[node].inputs)]
    if beyond:
        raise ExportError(f"Layer '{name}': its node '{beyond[0]}' has fewer inputs than the metadata say.")
    return ExportLayer(
        name=name,
        node=nodes[name],
        record=record,
        reads=tuple(_reads(name, site, record, nodes)),
        weight=_weight(name, nodes[name], record) if record.weight else None,
    )


def _reads(name: str, site: LayerSite, record: LayerRecord, nodes: Mapping[str, ir.Node]) -> Iterator[InputRead]:
    for grid in record.activations:
        if grid.index not in site.inputs:
            raise ExportError(
                f"Layer '{name}': the record has parameters of input {grid.index}, in the ONNX model it has the "
                f"quantizable inputs {sorted(site.inputs)}."
            )
        for node, position in site.inputs[grid.index]:
            yield InputRead(node=nodes[node], position=position, grid=grid)


def _weight(name: str, node: ir.Node, record: LayerRecord) -> WeightRead:
    assert record.weight is not None
    axis, groups = weight_layout(node)
    array = _array(node.inputs[1])
    if array is None:
        raise ExportError(f"Layer '{name}': its weight is computed by the ONNX model, it must be a constant.")
    return WeightRead(
        layer=name,
        array=array,
        channel_axis=axis,
        groups=groups,
        record=record.weight,
        bias=_bias(node),
        data_scale=next((grid.scale for grid in record.activations if grid.index == 0), None),
    )


def _array(value: ir.Value | None) -> NDArray[np.float32] | ScaledTensor | None:
    tensor = None if value is None else value.const_value
    if isinstance(tensor, ScaledTensor):
        return tensor
    array = constant_of(value)
    return None if array is None else array.astype(np.float32, copy=False)


def _bias(node: ir.Node) -> NDArray[np.float32] | None:
    """Returns the bias, float32; None for a MatMul, behind which an Add node adds the bias in float (spec 8.3)."""
    bias = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
    return None if bias is None else bias.astype(np.float32, copy=False)
