"""Values between roundings agree up to the last bits: only a value near a tie could be rounded differently."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.interpreters import RealQuantInterpreter, layer_name
from hotwheels.amct_pytorch.oracle.digest import deploy_paths
from hotwheels.amct_pytorch.oracle.interpreter import Interpreter
from tests.support.exact_matrix import OPERATIONS, Case, Geometry, data, quantized_net

_GEOMETRY = Geometry(
    kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1, extra=0, has_bias=False
)  # fmt: skip
_CASE = Case(
    operation="", first="conv", data_bits=(16, 16, 16), weights="uniform 8", shape=(3, 4, 7, 8), geometry=_GEOMETRY,
    grid="calibrated", spread=3.0, shift=0.0, seed=3,
)  # fmt: skip
# Sums of float64 in another order; a float32 constant that is rounded on one side only makes 1e-8.
_LAST_BITS = 1e-13


class _Recorder(RealQuantInterpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point():
            self.found[layer_name(self.module, n)] = result
        return result


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("operation", dict.fromkeys(OPERATIONS))
def test_reals_agree_to_the_last_bits(operation: str, opset: int, tmp_path: Path) -> None:
    case = dataclasses.replace(_CASE, operation=operation)
    quantized, x = quantized_net(case, tmp_path), data(case)
    amct.save_quant_model_fx(quantized, tmp_path / "net", x, {"opset_version": opset})
    amct.enable_quantization(quantized, real_quant=True)
    recorder = _Recorder(quantized)
    with torch.no_grad():
        recorder.run(x)
    values = Interpreter(*deploy_paths(tmp_path / "net")).run({"x": x.numpy()}, keep_values=True).values
    shared = [name for name in recorder.found if name in values and name not in _two_nodes(values)]
    assert shared
    for name in shared:
        with torch.no_grad():
            ours = np.asarray(recorder.found[name].clone(), dtype=np.float64)
        apart = np.abs(ours - values[name].reshape(ours.shape)).max() / max(np.abs(ours).max(), 1e-300)
        assert apart <= (_LAST_BITS if recorder.found[name].dtype == torch.float64 else 1e-7), name


def _two_nodes(values: dict[str, Any]) -> set[str]:
    """A Linear of higher rank is a MatMul called as the layer, and an Add."""
    return {name.partition("/")[0] for name in values if name.endswith("/Add")}
