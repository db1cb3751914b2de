"""One architecture through the SDK: check, configure, calibrate, fake_quant, real_quant, export, onnxruntime, oracle."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from hotwheels.amct_pytorch.core.metrics import sqnr_db
from hotwheels.amct_pytorch.export.save import output_path
from tests.api.fx_path import run_onnx
from tests.exact.pair import compare, run_oracle, run_torch

from .architectures import Architecture
from .outcome import DYNAMIC, STATIC, Outcome
from .preparation import images, prepare
from .runtime import compare_layers

CALIBRATION_IMAGES, TEST_IMAGES = 8, 2
# What the last bits of float32 sums in another order may do to a single layer, dB.
LAYER_SQNR = 100.0
# Attention written out, instead of torch's fused kernel, rounds in other places: 2^-16 relative, and no more.
FLOAT_SQNR = 96.0


class ConformanceError(Exception):
    """Two sides which have to agree do not."""


def run(architecture: Architecture) -> Outcome:
    """Returns what came of ``architecture``; errors are part of it."""
    outcome = Outcome(name=architecture.name)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_Failed):
        _run(_Stages(outcome), architecture, Path(folder))
    return outcome


class _Failed(Exception):
    """The outcome holds the error already."""


class _Stages:
    """Times each stage of one run and notes in which it fails."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Outcome]:
        started = time.perf_counter()
        try:
            yield self.outcome
        except Exception as error:
            self.outcome.stage, self.outcome.error = name, one_line(error)
            raise _Failed from error
        finally:
            self.outcome.seconds[name] = round(time.perf_counter() - started, 2)


def one_line(error: BaseException) -> str:
    """Returns class and text of an error without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _run(stages: _Stages, architecture: Architecture, folder: Path) -> None:
    with stages.stage("build"):
        torch.manual_seed(0)
        calibration = images(CALIBRATION_IMAGES, architecture.image_size, seed=0)
        model = prepare(architecture.build(), [calibration])
        test = images(TEST_IMAGES, architecture.image_size, seed=1)
        with torch.no_grad():
            expected = outputs(model(test))
    with stages.stage("check_model") as outcome:
        report = amct.check_model(model)
        outcome.path = STATIC if report.is_static_path_possible else DYNAMIC
        outcome.skipped = _by_reason([skip.reason for skip in report.skipped])
        if report.problems:
            raise ConformanceError(str(report.problems[0]))
    with stages.stage("create") as outcome:
        amct.create_quant_config_fx(folder / "config.json", model)
        quantized: Any = amct.create_quant_model_fx(folder / "config.json", model)
        outcome.quantized = len(quantized.quantized_layers)
        same = worst_sqnr(expected, _outputs_of(quantized, test))
        if same < FLOAT_SQNR:
            raise ConformanceError(f"The quantized model in float state is {same:.1f} dB from the float model.")
    with stages.stage("calibrate"):
        amct.enable_quantization(quantized, calibration=True)
        _outputs_of(quantized, calibration)
    with stages.stage("fake_quant") as outcome:
        amct.enable_quantization(quantized, fake_quant=True)
        fake = _outputs_of(quantized, test)
        outcome.fake_sqnr = worst_sqnr(expected, fake)
    with stages.stage("real_quant") as outcome:
        amct.enable_quantization(quantized, real_quant=True)
        outcome.real_sqnr = worst_sqnr(expected, _outputs_of(quantized, test))
    prefix = folder / "net"
    with stages.stage("export"):
        amct.save_quant_model_fx(quantized, prefix, test)
    with stages.stage("onnxruntime") as outcome:
        found = run_onnx(output_path(prefix, "fake_quant_model.onnx"), test)
        outcome.runtime_sqnr = worst_sqnr(fake, [torch.from_numpy(one) for one in found])
        agreement = compare_layers(quantized, prefix, [test])
        outcome.runtime_layers, outcome.layer_sqnr = agreement.layers, agreement.worst
        if not agreement.worst >= LAYER_SQNR:
            raise ConformanceError(f"Layer '{agreement.layer}' is {agreement.worst:.1f} dB from onnxruntime's.")
    with stages.stage("oracle") as outcome:
        _compare_with_oracle(outcome, quantized, prefix, test)


def _compare_with_oracle(outcome: Outcome, quantized: QuantGraphModule, prefix: Path, test: Tensor) -> None:
    found = compare(quantized, run_torch(quantized, [test]), run_oracle(prefix, [test]))
    outcome.edges, outcome.integers = found.edges, found.elements
    if found.differences:
        raise ConformanceError(f"{len(found.differences)} differences to the oracle; {found.differences[0]}")
    if not found.edges:
        raise ConformanceError("Nothing was compared with the oracle.")


@torch.no_grad()
def _outputs_of(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    return outputs(model(inputs))


def outputs(result: Any) -> list[Tensor]:
    """Returns the float tensors of what a forward gave, in the order of the exported file."""
    return [one for one in pytree.tree_leaves(result) if isinstance(one, Tensor)]


def worst_sqnr(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Returns the lowest signal to noise ratio of all outputs, dB.

    Raises:
      ConformanceError: The two sides have outputs of other number or shape.
    """
    if [one.shape for one in expected] != [one.shape for one in found]:
        shapes = [[tuple(one.shape) for one in side] for side in (expected, found)]
        raise ConformanceError(f"Outputs have the shapes {shapes[1]} instead of {shapes[0]}.")
    return min(sqnr_db(one, other) for one, other in zip(expected, found, strict=True))


def _by_reason(reasons: list[str]) -> dict[str, int]:
    """Counts reasons, the names in them replaced by an ellipsis."""
    return dict(Counter(re.sub("'[^']*'", "'…'", reason) for reason in reasons).most_common())
