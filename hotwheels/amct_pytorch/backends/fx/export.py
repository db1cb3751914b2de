"""Exports a quantized graph as a float ONNX model with marker nodes around its layers (SPEC 11.3, 11.6)."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.onnx.errors import UnsupportedOperatorError
from torch.utils import _pytree as pytree

from ...errors import ExportError
from ...log import get_logger
from ...nn.quantized_layer import QuantizedLayer
from ...ops.registry import Registry
from .example_call import ExampleCall
from .flat_graph import flat_float_graph
from .quant_graph_module import QuantGraphModule

_log = get_logger(__name__)
DEFAULT_OPSET = 13


def export_float(
    model: QuantGraphModule, example: ExampleCall, setting: dict[str, Any], registry: Registry
) -> bytes:
    """Returns the float model, BatchNorm folded, with marker nodes, as ONNX bytes.

    ``setting`` holds keyword arguments of ``torch.onnx.export``. Without an ``opset_version`` the lowest one from 13
    on that knows all operations is taken. ``model`` is not changed.

    Raises:
      ExportError: The example call fails, or an operation has no ONNX form.
    """
    _refuse_divisors(model)
    module = flat_float_graph(model, registry, example.constants)
    inputs = (*example.inputs, {})  # a dict in the last place would be taken for keyword arguments
    opset = setting.get("opset_version", DEFAULT_OPSET)
    while True:
        try:
            return _export(module, inputs, {**setting, "opset_version": opset})
        except UnsupportedOperatorError as error:
            needed = _needed_opset(error)
            if "opset_version" in setting or needed is None or needed <= opset:
                raise ExportError(f"The model cannot be exported to ONNX: {error}") from error
            _log.debug("Opset %d is taken: %s", needed, error)
            opset = needed
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            msg = f"The model cannot be exported to ONNX with this input_data: {error}"
            raise ExportError(msg) from error


def _refuse_divisors(model: QuantGraphModule) -> None:
    """The exporter leaves a ``divisor_override`` out without a word: ONNX's AveragePool has none."""
    for node in model.graph.nodes:
        called = model.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        called = called.call.function if isinstance(called, QuantizedLayer) else called
        if isinstance(called, nn.AvgPool2d):
            divisor = called.divisor_override
        elif called is F.avg_pool2d:
            divisor = node.kwargs.get("divisor_override", node.args[6] if len(node.args) > 6 else None)
        else:
            continue
        if divisor is not None:
            msg = (
                f"Layer '{node.name}': an average pooling with divisor_override={divisor} cannot be exported to ONNX."
                " Leave it out and multiply the result."
            )
            raise ExportError(msg)


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
    with warnings.catch_warnings(), torch.no_grad(), _without_fused_attention():
        warnings.simplefilter("ignore")  # about tracing and deprecation; they speak to the exporter's direct user
        torch.onnx.export(module, inputs, file, dynamo=False, training=torch.onnx.TrainingMode.PRESERVE, **setting)
    return file.getvalue()


def _needed_opset(error: UnsupportedOperatorError) -> int | None:
    """Returns the opset from which on the operation is known; only the exporter's text says it."""
    found = re.search(r"was added in version (\d+)", str(error))
    return int(found.group(1)) if found else None


@contextlib.contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Without gradients nn.MultiheadAttention takes a fused kernel that ONNX has no form of."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
