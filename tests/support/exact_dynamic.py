"""Compares models quantized on the dynamic path with the oracle, in several configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.layers.layer_container import LAYERS, layers_by_name
from hotwheels.amct_pytorch.config.files.tolerant_json import dump_json
from hotwheels.amct_pytorch.nn.quantized_layer import QuantizedLayer
from hotwheels.amct_pytorch.oracle.interpreter import Interpreter, Result
from tests.support.dynamic_path import Files, make_config, quantize, run
from tests.support.exact_matrix import randomize
from tests.support.exact_pair import Comparison, assert_equal, run_torch

_SNQ = {"wts_algo": "snq_quantize", "num_bits": 4, "channel_wise": True}
CONFIGURATIONS: Mapping[str, tuple[int, Mapping[str, Any]]] = {  # bits of the data, changes of the weight entries
    "8 bits": (8, {}),
    "4 bits": (4, {"num_bits": 4}),
    "12 bits": (12, {}),
    "16 bits": (16, {"channel_wise": False}),
    "SNQ": (8, _SNQ),
}


def calibrated_net(model: nn.Module, configuration: str, folder: Path, batches: Sequence[Tensor]) -> tuple:
    """``model`` quantized on the dynamic path and calibrated, and its files, saved."""
    randomize(model)
    files = make_config(model.eval(), folder, batches[0], batch_num=len(batches))
    _configure(files, *CONFIGURATIONS[configuration])
    quantized = quantize(model, files, batches[0])
    for batch in batches:
        run(quantized, batch)
    files.save(quantized)
    return quantized, files


def _configure(files: Files, num_bits: int, weights: Mapping[str, Any]) -> None:
    document = files.document
    for layer in (one for one in document.values() if isinstance(one, dict) and "quant_enable" in one):
        for at, data in enumerate(layer["activation_quant_params"]):
            is_second_factor = at == 1 and not data.get("with_offset", True)  # of a matmul: it counts as weight
            data["num_bits"] = 8 if is_second_factor else num_bits
        if "weight_quant_params" in layer:
            layer["weight_quant_params"] |= weights
    files.config.write_text(dump_json(document))


def assert_exact(quantized: nn.Module, files: Files, *inputs: Tensor) -> tuple[Comparison, Result]:
    trace, result = run_torch(quantized, inputs), oracle(files, *inputs)
    return assert_equal(layers_of(quantized), trace, result), result


def oracle(files: Files, *inputs: Tensor) -> Result:
    interpreter = Interpreter(*files.deploy_pair)
    return interpreter.run({name: x.numpy() for name, x in zip(interpreter.pair.graph.inputs, inputs, strict=True)})


def layers_of(quantized: nn.Module) -> dict[str, QuantizedLayer]:
    return layers_by_name(quantized.get_submodule(LAYERS))


def images(count: int = 2, spread: float = 1.0) -> Tensor:
    return spread * torch.randn(count, 3, 32, 32)
