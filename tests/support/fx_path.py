"""The calls of the FX path in one line each, and stock onnxruntime on the written files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from hotwheels.amct_pytorch.config.files.tolerant_json import dump_json, read_json

CONFIG = "config.json"


def make_config(model: nn.Module, folder: Path, layers: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """Writes the default configuration, with the given keys of the given layers replaced, and returns its path."""
    path = folder / CONFIG
    amct.create_quant_config_fx(path, model)
    if layers:
        document = read_json(path)
        for name, changes in layers.items():
            document[name] |= changes
        path.write_text(dump_json(document))
    return path


def quantize(
    model: nn.Module,
    folder: Path,
    batches: Sequence[tuple[Any, ...]],
    layers: Mapping[str, Mapping[str, Any]] | None = None,
) -> QuantGraphModule:
    """Returns the model quantized with its default configuration, calibrated with ``batches``."""
    quantized = amct.create_quant_model_fx(make_config(model, folder, layers), model)
    calibrate(quantized, batches)
    return quantized


def calibrate(quantized: nn.Module, batches: Sequence[tuple[Any, ...]]) -> None:
    amct.enable_quantization(quantized, calibration=True)
    with torch.no_grad():
        for batch in batches:
            quantized(*batch)


def run_float(quantized: nn.Module, *inputs: Any) -> Any:
    amct.enable_quantization(quantized)
    with torch.no_grad():
        return quantized(*inputs)


def run_fake(quantized: nn.Module, *inputs: Any) -> Any:
    amct.enable_quantization(quantized, fake_quant=True)
    with torch.no_grad():
        return quantized(*inputs)


def run_real(quantized: nn.Module, *inputs: Any) -> Any:
    amct.enable_quantization(quantized, real_quant=True)
    with torch.no_grad():
        return quantized(*inputs)


def run_onnx(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    """The outputs of a model in stock onnxruntime, graph optimisations off."""
    session = open_onnx(path)
    feeds = {value.name: x.numpy() for value, x in zip(session.get_inputs(), inputs, strict=True)}
    return session.run(None, feeds)


def open_onnx(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def steps_apart(left: Any, right: Any, step: float) -> np.ndarray:
    """How many steps of a grid each element of ``left`` is away from that of ``right``."""
    return np.abs(_array(left) - _array(right)) / step


def _array(x: Any) -> np.ndarray:
    return np.asarray(x.detach() if isinstance(x, Tensor) else x, dtype=np.float64)
