"""Raises the opset of a model with ONNX's own converter."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import version_converter

from ..errors import ConfigError, ExportError
from .large_tensors import put_back, take_large_tensors

DEFAULT_OPSET = 13

_LARGE_TENSOR = 1025  # bytes; larger tensors are not passed to the converter: a serialized model ends at 2 GB


class OpsetTooLow(Exception):
    """A call has an ONNX form only from ``opset`` on."""

    def __init__(self, opset: int, reason: str) -> None:
        super().__init__(reason)
        self.opset = opset


def opset_of(model: ir.Model) -> int:
    """Returns the opset of the standard operators in ``model``."""
    return model.opset_imports.get("", 1)


def ir_version_of(opset: int) -> int:
    """Returns the IR version with which ``opset`` of the standard operators was released.

    Raises:
      ConfigError: onnx does not know the opset.
    """
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise ConfigError(f"opset_version {opset} is not known: onnx {onnx.__version__} has opsets up to {newest}.")
    return int(onnx.helper.OP_SET_ID_VERSION_MAP["ai.onnx", opset])


def raise_opset(model: ir.Model, version: int) -> ir.Model:
    """Returns ``model`` at opset ``version``, or at its own opset if that is higher; names are kept.

    Returns ``model`` itself if its opset is high enough, else a new model. Nodes of other domains are not changed.

    Raises:
        ExportError: ONNX's converter has no rule for an operator of the model.
    """
    if opset_of(model) >= version:
        return model
    small = model.clone()
    tensors = take_large_tensors(small, _LARGE_TENSOR)
    converted = _convert(small, version)
    put_back(converted.graph, tensors)
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
