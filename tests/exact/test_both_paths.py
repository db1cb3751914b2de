"""Layers of one kind on both paths: real_quant == oracle on every integer, the fake_quant file in a default session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.both_paths import PATHS, saved


class Between(nn.Module):
    """A convolution, the layer, and a layer that rounds its result."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Conv2d(3, 4, 3, padding=1), layer, nn.ELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x)))


LAYERS = (
    nn.Hardsigmoid(),
    nn.GroupNorm(2, 4),
    nn.GroupNorm(4, 4, affine=False),
    nn.InstanceNorm2d(4, affine=True),
    nn.RMSNorm(6),
    nn.RMSNorm((6, 6), eps=1e-3, elementwise_affine=False),
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_layer_that_is_off_by_default(layer: nn.Module, path: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    model = Between(layer).eval()
    batches = [torch.randn(4, 3, 6, 6) for _ in range(2)]
    assert "layer" not in saved(path, model, tmp_path, batches).layers
    found = saved(path, model, tmp_path, batches, on=["layer"])
    assert found.assert_exact(2 * batches[1]).edges == 3
    assert len(found.record.layers["layer"].activations) == 1
    apart = found.steps_apart(batches[0], found.record.layers["last"].activations[0].scale)
    assert np.mean(apart < 0.01) >= 0.98  # beside a tie the sums of the runtime fall on the other side
    assert apart.max() <= 1.01
