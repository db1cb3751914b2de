"""Compares the fake_quant file in onnxruntime with fake_quant in torch, layer by layer.

At the end of a deep network the two may differ much though each layer is right: they sum in different orders, so values
near a rounding tie may be rounded differently, and later layers amplify the difference. So each layer in torch gets the
inputs of the runtime's layer; then only the last bits of float32 may differ.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.interpreters import RecordingInterpreter, layer_name
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from hotwheels.amct_pytorch.core.metrics import sqnr_db
from hotwheels.amct_pytorch.report.tensors import load_tensors


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well single layers agree.

    Attributes:
      layers: Number of compared layers.
      worst: Lowest signal to noise ratio of a layer, dB.
      layer: The layer with the lowest ratio.
    """

    layers: int
    worst: float
    layer: str


def compare_layers(quantized: QuantGraphModule, prefix: Path, inputs: Sequence[Tensor]) -> Agreement:
    """Runs both sides on ``inputs``; leaves ``quantized`` in fake_quant state."""
    runtime = load_tensors("fake_quant", prefix, [one.numpy() for one in inputs], is_limited=False).results
    amct.enable_quantization(quantized, fake_quant=True)
    interpreter = _Guided(quantized, runtime)
    with torch.no_grad(), quantized.keeping_inputs():
        interpreter.run(*inputs)
    layer = min(interpreter.found, key=interpreter.found.__getitem__, default="")
    return Agreement(len(interpreter.found), interpreter.found.get(layer, math.nan), layer)


class _Guided(RecordingInterpreter):
    """Replaces the result of every node that the runtime has too by the runtime's result."""

    def __init__(self, module: fx.GraphModule, runtime: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(module, None)
        self._runtime = runtime
        self.found: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        theirs = self._runtime.get(layer_name(self.module, n))
        if theirs is None or n.op == "placeholder":
            return result
        if n.op == "call_module" and isinstance(self.module.get_submodule(str(n.target)), nn.RNNBase):
            return (self._guided(n, result[0], theirs), *result[1:])
        return self._guided(n, result, theirs)

    def _guided(self, n: fx.Node, result: Any, theirs: NDArray[Any]) -> Any:
        if not isinstance(result, Tensor) or not result.is_floating_point() or result.shape != theirs.shape:
            return result
        guide = torch.from_numpy(np.ascontiguousarray(theirs)).to(result.dtype)
        self.found[layer_name(self.module, n)] = sqnr_db(guide, result)
        return guide
