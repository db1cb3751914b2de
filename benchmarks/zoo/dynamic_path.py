"""Runs the dynamic path on a network that torch.fx cannot trace: fake_quant, and files in onnxruntime and the oracle.

The oracle is used here instead of real_quant; tests/exact/test_dynamic.py compares both on other networks.
"""

from __future__ import annotations

import torch

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.nn.quantized_layer import QuantizedLayer
from tests.support import dynamic_path
from tests.support.exact_pair import run_oracle
from tests.support.fx_path import run_onnx

from .stages import Stages
from .subject import Subject, outputs_of, worst_sqnr


def run(stages: Stages, subject: Subject) -> None:
    """Runs all stages."""
    files = dynamic_path.Files(subject.folder)
    with stages.stage("create") as outcome:
        amct.create_quant_config(files.config, subject.model, subject.test)
        quantized = dynamic_path.quantize(subject.model, files, subject.test)
        outcome.quantized = sum(isinstance(one, QuantizedLayer) for one in quantized.modules())
    with stages.stage("calibrate"):
        outputs_of(quantized, subject.calibration)
    with stages.stage("fake_quant") as outcome:
        fake = outputs_of(quantized, subject.test)
        outcome.fake_sqnr = worst_sqnr(subject.expected, fake)
    with stages.stage("export"):
        files.save()
    with stages.stage("onnxruntime") as outcome:
        found = run_onnx(files.fake_quant, subject.test)
        outcome.runtime_sqnr = worst_sqnr(fake, [torch.from_numpy(one) for one in found])
    with stages.stage("oracle") as outcome:
        result = run_oracle(files.folder / "out" / "model", [subject.test])
        found = [torch.from_numpy(one) for one in result.outputs.values()]
        outcome.real_sqnr = worst_sqnr(subject.expected, found)
