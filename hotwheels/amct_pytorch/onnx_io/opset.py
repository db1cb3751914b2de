"""Raising the opset of a model with ONNX's own converter."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir
from onnx import version_converter

from ..errors import ExportError

DEFAULT_OPSET = 13

_LARGE_TENSOR = 1024  # bytes; larger ones are kept out of the converter: a serialized model ends at 2 GB


class OpsetTooLow(Exception):
    """A call has an ONNX form at ``opset`` only."""

    def __init__(self, opset: int, reason: str) -> None:
        super().__init__(reason)
        self.opset = opset


def opset_of(model: ir.Model) -> int:
    """Returns the version of the standard operators which ``model`` uses."""
    return model.opset_imports.get("", 1)


def ir_version_of(opset: int) -> int:
    """Returns the IR version that the standard operators of version ``opset`` were released with."""
    return int(onnx.helper.OP_SET_ID_VERSION_MAP["ai.onnx", opset])


def raise_opset(model: ir.Model, version: int) -> ir.Model:
    """Returns ``model`` at opset ``version`` or its own if that is higher; nodes and values keep their names.

    ``model`` itself is returned where nothing is to do, else a new model. Nodes of other domains are left as they are.

    Raises:
        ExportError: ONNX's converter has no rule for an operator of the model.
    """
    if opset_of(model) >= version:
        return model
    small, tensors = _without_large_tensors(model)
    converted = _convert(small, version)
    _put_back(converted.graph, tensors)
    converted.ir_version = max(converted.ir_version, ir_version_of(version))
    return converted


def _convert(model: ir.Model, version: int) -> ir.Model:
    try:
        return ir.from_proto(version_converter.convert_version(ir.to_proto(model), version))
    except (version_converter.ConvertError, RuntimeError) as error:
        raise ExportError(
            f"Bit widths other than 8 are written with opset {version}, but ONNX's converter cannot raise the model "
            f"from opset {opset_of(model)}: {error}. Export with a higher opset_version, or use 8 bits everywhere."
        ) from error


def _without_large_tensors(model: ir.Model) -> tuple[ir.Model, dict[str, ir.TensorProtocol]]:
    """Returns a copy whose large initializers are graph inputs, and their tensors."""
    copy = model.clone()
    tensors: dict[str, ir.TensorProtocol] = {}
    for name, value in list(copy.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or tensor.nbytes <= _LARGE_TENSOR:
            continue
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        del copy.graph.initializers[name]
        value.const_value = None
        copy.graph.inputs.append(value)
        tensors[name] = tensor
    return copy, tensors


def _put_back(graph: ir.Graph, tensors: Mapping[str, ir.TensorProtocol]) -> None:
    for value in [value for value in graph.inputs if value.name in tensors]:
        graph.inputs.remove(value)
        value.const_value = tensors[str(value.name)]
        graph.register_initializer(value)
