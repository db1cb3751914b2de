"""Measures the layerwise analysis of ResNet-50 against the loop that runs the whole model once for each layer.

``python -m benchmarks.layerwise``. Both give the same outputs, which is checked bit for bit. The last line is the
bound: how often the float nodes behind the layers, without any quantization, fit into as many whole float forwards.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from benchmarks.subject import Workload, quantize
from hotwheels.amct_pytorch.backends.fx.float_prefix import FloatPrefix
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from hotwheels.amct_pytorch.backends.layers.layer_container import LAYERS
from hotwheels.amct_pytorch.nn.mode import Mode

_FORWARDS = 5  # of which the fastest run of each node counts


def main() -> None:
    workload = Workload(batch_size=1)
    with tempfile.TemporaryDirectory() as folder:
        model = quantize(workload.model(), Path(folder) / "config.json", 1)
        (image,) = workload.batches(1)
        with torch.no_grad():
            model.mode = Mode.CALIBRATION
            model(image)
            model.mode = Mode.FLOAT
            model(image)  # the first forward is slower
            started = time.process_time()
            naive = one_by_one(model, image)
            between = time.process_time()
            cached = {layer.name: output for layer, output in FloatPrefix(model, (image,)).outputs()}
            ended = time.process_time()
    assert all(torch.equal(naive[name], cached[name]) for name in naive), "the outputs differ"
    slow, fast = between - started, ended - between
    with torch.no_grad():
        bound = _bound(model, image)
    times = f"naive {slow:.1f} s of CPU time, prefix cached {fast:.1f} s"
    print(f"layerwise, {len(naive)} layers: {times}, ratio {slow / fast:.2f}")
    print(f"whole float forwards / float nodes behind the layers: {bound:.2f}")


def _bound(model: QuantGraphModule, image: Tensor) -> float:
    """Returns the seconds of a float forward for each layer over those of the nodes from each layer on."""
    timed = _TimedNodes(model)
    for _ in range(_FORWARDS):
        timed.run(image)
    nodes = list(model.graph.nodes)
    layers = {f"{LAYERS}.{name}" for name in model.quantized_layers}
    starts = [index for index, node in enumerate(nodes) if node.target in layers]
    seconds = [timed.seconds[node] for node in nodes]
    return sum(seconds) * len(starts) / sum(sum(seconds[start:]) for start in starts)


class _TimedNodes(fx.Interpreter):
    """Keeps the least processor time of each node."""

    def __init__(self, model: QuantGraphModule) -> None:
        super().__init__(model)
        self.seconds: dict[fx.Node, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Runs and times a node."""
        started = time.process_time()
        result = super().run_node(n)
        self.seconds[n] = min(self.seconds.get(n, math.inf), time.process_time() - started)
        return result


def one_by_one(model: QuantGraphModule, image: Tensor) -> dict[str, Tensor]:
    """Returns the output with each layer quantized alone, from a whole forward each."""
    outputs = {}
    with model.keeping_inputs():
        for name, layer in model.quantized_layers.items():
            layer.mode = Mode.FAKE_QUANT
            outputs[name] = model(image)
            layer.mode = Mode.FLOAT
    return outputs


if __name__ == "__main__":
    main()
