"""Every spelling of every operation of the table, through every stage of the FX path (spec 8.3)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, fx

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.backend import FxBackend
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from hotwheels.amct_pytorch.ops.registry import Registry
from hotwheels.amct_pytorch.ops.table import TABLE
from hotwheels.amct_pytorch.record.text_proto import read_record
from tests.support.fx_path import calibrate, make_config, run_fake, run_onnx, run_real, steps_apart
from tests.support.operator_cases import CASES, Case, OpNet

# onnxruntime sums in another order than torch; an element beside a rounding tie may fall on the other side.
_SHARE_WITHIN_ONE_STEP = 0.999


def test_every_spelling_has_a_case() -> None:
    spellings = {name for op in TABLE for name in (*op.modules, *op.functions, *op.methods)}
    assert {case.spelling for case in CASES} == spellings
    assert len({case.id for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_operation_passes_every_stage(case: Case, tmp_path: Path) -> None:
    model = OpNet(case).eval()
    layer = _layer_name(model, case)
    quantized = _calibrated(model, layer, case, tmp_path)
    amct.save_quant_model_fx(quantized, tmp_path / "out", torch.randn(1, 3, 6, 6), _DYNAMIC)
    x = torch.randn(5, 3, 6, 6)
    fake = run_fake(quantized, x)
    _assert_runtime_agrees(tmp_path / "out_fake_quant_model.onnx", x, fake, _output_step(quantized), case.id)
    apart = steps_apart(run_real(quantized, x), fake, _output_step(quantized))
    print(f"{case.id}: real_quant and fake_quant at most {apart.max():.2f} steps apart")
    assert apart.max() <= 1.0001
    assert layer in {node.name for node in onnx.load(tmp_path / "out_deploy_model.onnx").graph.node}
    assert len(read_record(tmp_path / "out_scale_offset_record.txt").layers[layer].activations) == case.inputs


_DYNAMIC = {"dynamic_axes": {"x": {0: "batch"}}}


def _layer_name(model: OpNet, case: Case) -> str:
    """The node of the spelled operation; its name is what stock torch.fx gives, to the last digit (spec 8.2)."""
    graph = FxBackend(model, Registry()).graph()
    layer = next(node.name for node in graph if node.type == (case.recorded or case.spelling) and node.name != "mul_1")
    assert layer in {node.name for node in _StockTracer().trace(model).nodes}
    return layer


class _StockTracer(fx.Tracer):
    """torch.fx with our leaf modules."""

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith(("torch.nn", "hotwheels.amct_pytorch.nn"))


def _calibrated(model: OpNet, layer: str, case: Case, folder: Path) -> QuantGraphModule:
    config = make_config(model, folder, {layer: {"quant_enable": True}})
    assert len(json.loads(config.read_text())[layer]["activation_quant_params"]) == case.inputs
    quantized = amct.create_quant_model_fx(config, model)
    calibrate(quantized, [(torch.randn(4, 3, 6, 6),), (torch.randn(3, 3, 6, 6),)])
    assert quantized.quantized_layers[layer].is_quantized
    return quantized


def _output_step(quantized: QuantGraphModule) -> float:
    """The step of the output: that of the last layer's input, which it halves."""
    *_, last = quantized.quantized_layers.values()
    return 0.5 * float(last.activation[0].params().scale)


def _assert_runtime_agrees(path: Path, x: Tensor, fake: Tensor, step: float, name: str) -> None:
    apart = steps_apart(run_onnx(path, x)[0], fake, step)
    share = float(np.mean(apart <= 1.0001))
    print(f"{name}: onnxruntime within one step on {share:.2%}, equal on {np.mean(apart < 0.01):.2%}")
    assert share >= _SHARE_WITHIN_ONE_STEP
