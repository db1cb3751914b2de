"""real_quant == oracle on every integer of whole nets: everything quantized, and the CUBE operations only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch as amct
from tests.support.exact_nets import NETS
from tests.support.exact_pair import assert_exact
from tests.support.exact_static import CONFIGURATIONS, images, quantized_net


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
