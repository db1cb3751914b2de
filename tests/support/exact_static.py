"""Whole nets of ``NETS`` quantized on the FX path: everything, the CUBE operations only, or with 16 bits."""

from __future__ import annotations

from pathlib import Path

import torch

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from tests.support.exact_matrix import randomize
from tests.support.exact_nets import NETS
from tests.support.fx_path import calibrate

_CUBE = """
common_config: {quant_enable: false}
override_layer_types:
  - layer_type: [torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear, torch.nn.MaxPool2d, torch.nn.AvgPool2d,
      torch.nn.AdaptiveAvgPool2d, torch.nn.functional.max_pool2d, torch.nn.functional.adaptive_avg_pool2d,
      matmul, torch.matmul, operator.matmul]
"""
_WIDE = "common_config: {activation_quant_params: {quantizer: UlqFakeQuantize, quantizer_args: {num_bits: 16}}}"
CONFIGURATIONS = {"all": "", "cube": _CUBE, "16 bits": _WIDE}


def quantized_net(name: str, configuration: str, folder: Path) -> QuantGraphModule:
    """A net of ``NETS`` in eval mode, calibrated with two batches."""
    torch.manual_seed(3)
    model = NETS[name]().eval()
    randomize(model)
    definition = None
    if CONFIGURATIONS[configuration]:
        definition = folder / "simple.yaml"
        definition.write_text(CONFIGURATIONS[configuration])
    amct.create_quant_config_fx(folder / "config.json", model, definition)
    quantized = amct.create_quant_model_fx(folder / "config.json", model)
    calibrate(quantized, [(images(),), (images(),)])
    return quantized


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32)
