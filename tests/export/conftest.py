"""Marked nets, their export, stock onnxruntime, and the formula of spec 4.1 once more in NumPy."""

import io
import warnings

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from hotwheels.amct_pytorch.backends.torchscript.marker_sites import resolve_markers
from hotwheels.amct_pytorch.backends.torchscript.markers import mark_input, mark_output
from hotwheels.amct_pytorch.record import ActivationRecord, WeightRecord


class Marked(nn.Module):
    """Calls ``op`` as the layer ``name``: markers around it, as the back-ends put them."""

    def __init__(self, name, op):
        super().__init__()
        self.name = name
        if isinstance(op, nn.Module):
            self.inner = op
        self.op = None if isinstance(op, nn.Module) else op

    def forward(self, *inputs):
        marked = [mark_input(x, self.name, index) for index, x in enumerate(inputs)]
        return mark_output((self.op or self.inner)(*marked), self.name)


def _export(module, inputs, opset=13):
    buffer = io.BytesIO()
    names = [f"x{index}" for index in range(len(inputs))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module.eval(), tuple(inputs), buffer, dynamo=False, opset_version=opset, input_names=names,
            training=torch.onnx.TrainingMode.PRESERVE, dynamic_axes={name: {0: "batch"} for name in names},
            custom_opsets={"amct_marker": 1},
        )  # fmt: skip
    return ir.from_proto(onnx.load_from_string(buffer.getvalue()))


def _run(model, *inputs):
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {value.name: np.asarray(x) for value, x in zip(session.get_inputs(), inputs, strict=True)}
    return session.run(None, feeds)


def _canonical(scale):
    one = np.float32(1)
    return float(one / (one / np.float32(scale)))


def _grid(x, index=0, num_bits=8, symmetric=False):
    """The min/max grid of ``x``."""
    low, high, top = min(float(np.min(x)), 0.0), max(float(np.max(x)), 0.0), 2 ** (num_bits - 1) - 1
    if symmetric:
        return ActivationRecord(index=index, scale=_canonical(max(-low, high) / top), offset=0, num_bits=num_bits)
    scale = _canonical((high - low) / (2**num_bits - 1))
    return ActivationRecord(index=index, scale=scale, offset=-top - 1 - round(low / scale), num_bits=num_bits)


def _weight_grid(weight_channel_first, num_bits=8, per_channel=False):
    """The symmetric min/max grid of a weight whose axis 0 are the output channels."""
    rows = np.abs(weight_channel_first).reshape(len(weight_channel_first), -1)
    largest = rows.max(axis=1) if per_channel else [rows.max()]
    top = 2 ** (num_bits - 1) - 1
    return WeightRecord(scale=tuple(_canonical(float(one) / top) for one in largest), num_bits=num_bits)


def _on_grid(x, scale, offset, num_bits):
    """Dequantized integers in float64; ``scale`` broadcasts."""
    scale, top = np.asarray(scale, dtype=np.float32), 2 ** (num_bits - 1) - 1
    q = np.clip(np.round(np.asarray(x, dtype=np.float32) / scale) + np.float32(offset), -top - 1, top)
    return (q.astype(np.float64) - offset) * scale.astype(np.float64)


@pytest.fixture
def marked():
    return Marked


@pytest.fixture
def export_marked():
    """``export_marked(module, inputs, opset) -> (float model, sites)``."""

    def export(module, inputs, opset=13):
        model = _export(module, inputs, opset)
        return model, resolve_markers(model)

    return export


@pytest.fixture
def run():
    """``run(model, *inputs) -> outputs`` of stock onnxruntime, checked and not optimized."""
    return _run


@pytest.fixture
def grid():
    return _grid


@pytest.fixture
def weight_grid():
    return _weight_grid


@pytest.fixture
def on_grid():
    return _on_grid
