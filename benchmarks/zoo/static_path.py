"""Runs the FX path on a network: fake_quant, real_quant, the exported files in onnxruntime and in the oracle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from hotwheels.amct_pytorch.export.save import output_path
from hotwheels.amct_pytorch.workflows.check.integer_share import measured_share
from tests.support.exact_pair import compare, run_oracle, run_torch
from tests.support.fx_path import run_onnx

from .outcome import Outcome
from .runtime import compare_layers
from .stages import ConformanceError, Stages
from .subject import Subject, outputs_of, worst_sqnr

# Least ratio, in dB, of a single layer to the same layer in onnxruntime, which sums float32 values in another order.
LAYER_SQNR = 100.0
# Attention as single operations, instead of torch's fused kernel, rounds elsewhere: at most 2^-16 relative.
FLOAT_SQNR = 96.0


def run(stages: Stages, subject: Subject) -> None:
    """Runs all stages; the test images are the example of the trace."""
    quantized = _create(stages, subject, subject.test)
    with stages.stage("calibrate"):
        amct.enable_quantization(quantized, calibration=True)
        outputs_of(quantized, subject.calibration)
    with stages.stage("integer share") as outcome:
        _measure_share(outcome, quantized, subject)
    with stages.stage("fake_quant") as outcome:
        amct.enable_quantization(quantized, fake_quant=True)
        fake = outputs_of(quantized, subject.test)
        outcome.fake_sqnr = worst_sqnr(subject.expected, fake)
    with stages.stage("real_quant") as outcome:
        amct.enable_quantization(quantized, real_quant=True)
        outcome.real_sqnr = worst_sqnr(subject.expected, outputs_of(quantized, subject.test))
    prefix = subject.folder / "net"
    with stages.stage("export"):
        amct.save_quant_model_fx(quantized, prefix, subject.test)
    with stages.stage("onnxruntime") as outcome:
        found = run_onnx(output_path(prefix, "fake_quant_model.onnx"), subject.test)
        outcome.runtime_sqnr = worst_sqnr(fake, [torch.from_numpy(one) for one in found])
        _compare_with_runtime(outcome, quantized, prefix, subject)
    with stages.stage("oracle") as outcome:
        _compare_with_oracle(outcome, quantized, prefix, subject)


def _create(stages: Stages, subject: Subject, example: Tensor) -> QuantGraphModule:
    with stages.stage("create") as outcome:
        config = subject.folder / "config.json"
        amct.create_quant_config_fx(config, subject.model, subject.definition, input_data=example)
        quantized: QuantGraphModule = amct.create_quant_model_fx(config, subject.model, input_data=example)
        outcome.quantized = len(quantized.quantized_layers)
        same = worst_sqnr(subject.expected, outputs_of(quantized, subject.test))
        if same < FLOAT_SQNR:
            raise ConformanceError(f"The quantized model in float state is {same:.1f} dB from the float model.")
    return quantized


def _measure_share(outcome: Outcome, quantized: QuantGraphModule, subject: Subject) -> None:
    """Notes which multiplications run on integers; too few are a failure in the default configuration only."""
    found = measured_share(quantized, (subject.test,))
    assert found is not None
    outcome.integer_share, outcome.float_products = found.share, dict(found.reasons)
    outcome.batch_norms = dict(Counter(one.reason for one in found.batch_norms))
    if not found.is_sufficient and subject.definition is None:
        reasons = "; ".join(sorted(set(found.reasons.values())))
        raise ConformanceError(f"{found}. {found.shortcomings} In float: {reasons or 'none'}")


def _compare_with_runtime(outcome: Outcome, quantized: QuantGraphModule, prefix: Path, subject: Subject) -> None:
    agreement = compare_layers(quantized, prefix, [subject.test])
    outcome.runtime_layers, outcome.layer_sqnr = agreement.layers, agreement.worst
    if not agreement.worst >= LAYER_SQNR:
        raise ConformanceError(f"Layer '{agreement.layer}' is {agreement.worst:.1f} dB from onnxruntime's.")


def _compare_with_oracle(outcome: Outcome, quantized: QuantGraphModule, prefix: Path, subject: Subject) -> None:
    trace, result = run_torch(quantized, [subject.test]), run_oracle(prefix, [subject.test])
    found = compare(quantized.quantized_layers, trace, result)
    outcome.edges, outcome.integers = found.edges, found.elements
    if found.differences:
        raise ConformanceError(f"{len(found.differences)} differences to the oracle; {found.differences[0]}")
    if not found.edges:
        raise ConformanceError("Nothing was compared with the oracle.")
