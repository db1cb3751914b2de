"""Quantizes a model on either path, saves it, and compares its files with torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.layers.layer_container import LAYERS, layers_by_name
from hotwheels.amct_pytorch.config.files.tolerant_json import dump_json, read_json
from hotwheels.amct_pytorch.nn.quantized_layer import QuantizedLayer
from hotwheels.amct_pytorch.oracle.digest import deploy_paths
from hotwheels.amct_pytorch.oracle.interpreter import Interpreter
from hotwheels.amct_pytorch.record.calibration_param import CalibrationParam, from_text
from hotwheels.amct_pytorch.record.record import Record
from hotwheels.amct_pytorch.record.text_proto import read_record
from tests.support.exact_pair import Comparison, assert_equal, run_torch

PATHS = ("fx", "dynamic")
Change = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Saved:
    """A calibrated model of one path, and where its files are.

    Attributes:
      path: ``fx`` or ``dynamic``.
      model: The quantized model.
      prefix: What the names of its files begin with.
      record_file: Its record.
    """

    path: str
    model: nn.Module
    prefix: Path
    record_file: Path

    @property
    def layers(self) -> Mapping[str, QuantizedLayer]:
        return layers_by_name(self.model.get_submodule(LAYERS))

    @property
    def record(self) -> Record:
        return read_record(self.record_file)

    @property
    def parameters(self) -> CalibrationParam:
        path = Path(f"{self.prefix}_quant_param_record.txt")
        return from_text(path.read_text(), str(path))

    def nodes(self, kind: str = "deploy") -> list[onnx.NodeProto]:
        return list(onnx.load(f"{self.prefix}_{kind}_model.onnx").graph.node)

    def assert_exact(self, x: Tensor) -> Comparison:
        """Demands that real_quant and the oracle agree on every integer."""
        interpreter = Interpreter(*deploy_paths(self.prefix))
        (name,) = interpreter.pair.graph.inputs
        return assert_equal(self.layers, run_torch(self.model, [x]), interpreter.run({name: x.numpy()}))

    def steps_apart(self, x: Tensor, step: float) -> np.ndarray:
        """How many steps the fake_quant file in a default onnxruntime session is away from fake_quant in torch."""
        amct.enable_quantization(self.model, fake_quant=True)
        with torch.no_grad():
            expected = self.model(x).numpy()
        session = onnxruntime.InferenceSession(
            f"{self.prefix}_fake_quant_model.onnx", providers=["CPUExecutionProvider"]
        )
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        return np.abs(found.astype(np.float64) - expected) / step


def saved(
    path: str,
    model: nn.Module,
    folder: Path,
    batches: Sequence[Tensor],
    on: Sequence[str] = (),
    change: Change | None = None,
) -> Saved:
    """Quantizes ``model`` with its default configuration, the layers ``on`` switched on as well, and saves it.

    ``change`` may change the document of the configuration, whose layers have the same keys on both paths as far as
    it is concerned.
    """
    config, prefix = folder / "config.json", folder / "out" / "net"
    if path == "fx":
        amct.create_quant_config_fx(config, model)
    else:
        amct.create_quant_config(config, model, batches[0], batch_num=len(batches))
    document = read_json(config)
    for layer in on:
        document[layer]["quant_enable"] = True
    if change is not None:
        change(document)
    config.write_text(dump_json(document))
    if path == "fx":
        quantized = amct.create_quant_model_fx(config, model)
        amct.enable_quantization(quantized, calibration=True)
    else:
        files = (folder / "modified.onnx", folder / "record.txt")
        quantized = amct.quantize_model(config, *files, model, batches[0])
    with torch.no_grad():
        for batch in batches:
            quantized(batch)
    if path == "fx":
        amct.save_quant_model_fx(quantized, prefix, batches[0])
        return Saved(path, quantized, prefix, Path(f"{prefix}_scale_offset_record.txt"))
    amct.save_model(*files, str(prefix))
    return Saved(path, quantized, prefix, files[1])
