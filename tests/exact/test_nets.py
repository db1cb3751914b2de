"""real_quant == oracle on every integer of whole nets: everything quantized, and the CUBE operations only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from tests.support.exact_matrix import randomize
from tests.support.exact_nets import NETS
from tests.support.exact_pair import assert_exact
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


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("name", NETS)
def test_every_integer_of_a_net_is_equal(name: str, configuration: str, tmp_path: Path) -> None:
    quantized = quantized_net(name, configuration, tmp_path)
    found = assert_exact(quantized, tmp_path, [images(3)])
    print(f"{name}, {configuration}: {found.edges} edges, {found.sums} accumulators, {found.elements} integers equal")


def test_every_integer_is_equal_after_training(tmp_path: Path) -> None:
    quantized = quantized_net("mobilenet_v2", "all", tmp_path)
    _train(quantized)
    assert_exact(quantized, tmp_path, [images()])


def _train(quantized: nn.Module) -> None:
    amct.enable_quantization(quantized, calibration=True, fake_quant=True)
    quantized.train()
    quantized(images(4))
    amct.enable_quantization(quantized, fake_quant=True)
    optimizer = torch.optim.SGD(quantized.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        quantized(images(4)).square().mean().backward()
        optimizer.step()
    quantized.eval()
