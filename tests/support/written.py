"""Writes single functions of torch as ONNX with the writer, and runs them in stock onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor

from hotwheels.amct_pytorch.backends.calls.leaves import tensors_in
from hotwheels.amct_pytorch.backends.writer.example import DynamicAxis, Example
from hotwheels.amct_pytorch.backends.writer.graph_writer import GraphWriter
from hotwheels.amct_pytorch.backends.writer.symbolic_example import SymbolicExample
from hotwheels.amct_pytorch.backends.writer.translator import Translator
from hotwheels.amct_pytorch.onnx_io.node_names import name_nodes, name_values


def write(
    function: Callable[..., Any],
    inputs: Sequence[Tensor],
    opset: int,
    dynamic: Mapping[int, Sequence[int]] | None = None,
) -> onnx.ModelProto:
    """Returns ``function`` as a model with the inputs ``input_0``, ...; axes ``dynamic[i]`` of input i are dynamic."""
    given = {f"input_{index}": x for index, x in enumerate(inputs)}
    axes = [
        DynamicAxis(f"input_{index}", axis, f"size_{axis}")
        for index, found in (dynamic or {}).items()
        for axis in found
    ]
    example = SymbolicExample(given, axes) if axes else Example(given)
    writer = GraphWriter(opset)
    translator = Translator(writer, example, lambda _: "", lambda _: None)
    with torch.no_grad(), translator:
        result = function(*translator.inputs)
    assert not example.fixed(), example.fixed()
    values = [translator.values.find(tensor) or writer.initializer(tensor) for tensor in tensors_in(result)]
    model = writer.model(values, [f"output_{index}" for index in range(len(values))])
    name_nodes(model, {}, {})
    name_values(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run_default(model: onnx.ModelProto, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    """Returns what a session as users open it computes."""
    return run_default_bytes(model.SerializeToString(), inputs)


def run_default_bytes(content: bytes, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    """Returns what a session as users open it computes from a model's bytes; its inputs are ``input_0``, ..."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options)
    found: list[np.ndarray] = session.run(None, {f"input_{index}": x.numpy() for index, x in enumerate(inputs)})
    return found


def assert_same(found: Sequence[np.ndarray], expected: Sequence[Tensor], rtol: float = 2e-6) -> None:
    """Demands equal integers, and floats that are as near as ``rtol`` of the largest: sums round in another order."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.numpy().dtype
        assert one.shape == tuple(other.shape)
        if other.is_floating_point():
            finite = other[torch.isfinite(other)]
            scale = float(finite.abs().max()) if finite.numel() else 0.0
            np.testing.assert_allclose(one, other.numpy(), rtol=rtol, atol=rtol * scale)
        else:
            np.testing.assert_array_equal(one, other.numpy())
