"""Measures the layerwise analysis of ResNet-50 against the loop that runs the whole model once for each layer.

``python -m benchmarks.layerwise``. Both give the same outputs, which is checked bit for bit.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.subject import Workload, quantize
from hotwheels.amct_pytorch.backends.fx.float_prefix import FloatPrefix
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from hotwheels.amct_pytorch.nn.mode import Mode


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
            started = time.perf_counter()
            naive = one_by_one(model, image)
            between = time.perf_counter()
            cached = {layer.name: output for layer, output in FloatPrefix(model, (image,)).outputs()}
            ended = time.perf_counter()
    assert all(torch.equal(naive[name], cached[name]) for name in naive), "the outputs differ"
    slow, fast = between - started, ended - between
    print(f"layerwise, {len(naive)} layers: naive {slow:.1f} s, prefix cached {fast:.1f} s, ratio {slow / fast:.2f}")


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
