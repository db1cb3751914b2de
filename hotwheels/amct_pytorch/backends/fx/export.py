"""Exports a quantized graph as a float ONNX model with marker nodes around its layers (SPEC 11.3, 11.6)."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch
from torch import fx
from torch.onnx.errors import UnsupportedOperatorError
from torch.utils import _pytree as pytree

from ...errors import ExportError
from ...log import get_logger
from ...ops.registry import Registry
from .flat_graph import flat_float_graph
from .quant_graph_module import QuantGraphModule

_log = get_logger(__name__)
DEFAULT_OPSET = 13
_HIGHEST_OPSET = 20  # what the TorchScript exporter knows


def export_float(
    model: QuantGraphModule, inputs: tuple[Any, ...], setting: dict[str, Any], registry: Registry
) -> bytes:
    """Returns the float model, BatchNorm folded, with marker nodes, as ONNX bytes.

    ``setting`` holds keyword arguments of ``torch.onnx.export``. Without an ``opset_version`` the lowest one from 13
    on that knows all operations is taken. ``model`` is not changed.
    """
    module = flat_float_graph(model, registry)
    opsets = [setting["opset_version"]] if "opset_version" in setting else range(DEFAULT_OPSET, _HIGHEST_OPSET + 1)
    refusal: UnsupportedOperatorError | None = None
    for opset in opsets:
        try:
            return _export(module, inputs, {**setting, "opset_version": opset})
        except UnsupportedOperatorError as error:
            refusal = refusal or error
            _log.debug("Opset %d does not do: %s", opset, error)
    raise ExportError(f"The model cannot be exported to ONNX: {refusal}") from refusal


def forward_names(model: fx.GraphModule) -> list[str]:
    """Returns the argument names of ``forward``, the default names of the ONNX inputs."""
    return [str(node.target).lstrip("*") for node in model.graph.nodes if node.op == "placeholder"]


def output_names(model: fx.GraphModule) -> list[str]:
    """Returns ``output``, or ``output_0``, ``output_1``, ... for what ``forward`` returns (SPEC 2.4).

    A call whose result is a tuple counts as one here; ``onnx_io.model_file.name_outputs`` mends that when the count
    is known.
    """
    result = next(node for node in model.graph.nodes if node.op == "output").args[0]
    count = sum(isinstance(leaf, fx.Node) for leaf in pytree.tree_leaves(result))
    return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]


def _export(module: fx.GraphModule, inputs: tuple[Any, ...], setting: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about tracing and deprecation; they speak to the exporter's direct user
        torch.onnx.export(module, inputs, file, dynamo=False, training=torch.onnx.TrainingMode.PRESERVE, **setting)
    return file.getvalue()
