"""Exports a quantized graph as a float ONNX model with marker nodes around its layers (SPEC 11.3, 11.6)."""

from __future__ import annotations

import contextlib
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
from .example_call import ExampleCall
from .flat_graph import flat_float_graph
from .quant_graph_module import QuantGraphModule

_log = get_logger(__name__)
DEFAULT_OPSET = 13
_HIGHEST_OPSET = 20  # what the TorchScript exporter knows


def export_float(
    model: QuantGraphModule, example: ExampleCall, setting: dict[str, Any], registry: Registry
) -> bytes:
    """Returns the float model, BatchNorm folded, with marker nodes, as ONNX bytes.

    ``setting`` holds keyword arguments of ``torch.onnx.export``. Without an ``opset_version`` the lowest one from 13
    on that knows all operations is taken. ``model`` is not changed.

    Raises:
      ExportError: The example call fails, or an operation has no ONNX form.
    """
    module = flat_float_graph(model, registry, example.constants)
    inputs = (*example.inputs, {})  # a dict in the last place would be taken for keyword arguments
    opsets = [setting["opset_version"]] if "opset_version" in setting else range(DEFAULT_OPSET, _HIGHEST_OPSET + 1)
    refusal: UnsupportedOperatorError | None = None
    for opset in opsets:
        try:
            return _export(module, inputs, {**setting, "opset_version": opset})
        except UnsupportedOperatorError as error:
            refusal = refusal or error
            _log.debug("Opset %d does not do: %s", opset, error)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            msg = f"The model cannot be exported to ONNX, running it with input_data fails: {error}"
            raise ExportError(msg) from error
    raise ExportError(f"The model cannot be exported to ONNX: {refusal}") from refusal


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
    # What the exporter says about tracing, deprecation and its graphs speaks to its direct user.
    chatter = contextlib.nullcontext() if setting.get("verbose") else contextlib.redirect_stdout(io.StringIO())
    with warnings.catch_warnings(), torch.no_grad(), chatter:
        warnings.simplefilter("ignore")
        torch.onnx.export(module, inputs, file, dynamo=False, training=torch.onnx.TrainingMode.PRESERVE, **setting)
    return file.getvalue()
