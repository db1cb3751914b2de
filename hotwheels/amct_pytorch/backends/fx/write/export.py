"""Exports a quantized graph as a float ONNX model with marker nodes around its layers (spec 11.3, 11.6)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import fx, nn
from torch.utils import _pytree as pytree

from ....nn.quantized_layer import QuantizedLayer
from ....ops.registry import Registry
from ...torchscript.torch_exporter import export_onnx, refuse_divisor
from ..quant_graph_module import QuantGraphModule
from .example_call import ExampleCall
from .flat_graph import flat_float_graph


def export_float(model: QuantGraphModule, example: ExampleCall, setting: dict[str, Any], registry: Registry) -> bytes:
    """Returns the float model, BatchNorm folded, with marker nodes, as ONNX bytes.

    ``setting`` holds keyword arguments of ``torch.onnx.export``. Without an ``opset_version`` the lowest one from 13
    on that knows all operations is taken. ``model`` is not changed.

    Raises:
      ExportError: The example call fails, or an operation has no ONNX form.
    """
    _refuse_divisors(model)
    module = flat_float_graph(model, registry, example.constants)
    return export_onnx(module, example.inputs, setting)


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
        refuse_divisor(node.name, divisor)


def output_names(model: fx.GraphModule) -> list[str]:
    """Returns ``output``, or ``output_0``, ``output_1``, ... for what ``forward`` returns (spec 2.4).

    A call whose result is a tuple counts as one here; ``onnx_io.model_file.name_outputs`` mends that when the count
    is known.
    """
    result = next(node for node in model.graph.nodes if node.op == "output").args[0]
    count = sum(isinstance(leaf, fx.Node) for leaf in pytree.tree_leaves(result))
    return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]
