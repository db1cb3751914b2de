"""Resizing with antialias: products with constant matrices, in every file and mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotwheels.amct_pytorch.nn.smooth_resize import smoothly_resized
from tests.support.whole_way import PATHS, take

SETTINGS: list[dict[str, Any]] = [
    {"size": (5, 4), "mode": "bicubic"},
    {"scale_factor": 0.7, "mode": "bicubic"},
    {"scale_factor": (0.7, 1.5), "mode": "bilinear", "recompute_scale_factor": True},
    {"size": [12, 3], "mode": "bilinear"},
    {"size": 4, "mode": "bicubic", "align_corners": True},
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_products_are_what_torch_computes(setting: dict[str, Any]) -> None:
    x = torch.randn(2, 3, 9, 10, generator=torch.Generator().manual_seed(0))
    found = smoothly_resized(x, **setting, antialias=True)
    torch.testing.assert_close(found, F.interpolate(x, **setting, antialias=True), rtol=0, atol=1e-6)


class Resized(nn.Module):
    """A table of positions and an image, both resized, between layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.positions = nn.Parameter(torch.randn(1, 8, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = y + F.interpolate(self.positions, size=y.shape[2:], mode="bicubic", antialias=True)
        return self.last(F.interpolate(y, size=(5, 6), mode="bilinear", antialias=True))


@pytest.mark.parametrize("path", PATHS)
def test_every_path_takes_it(path: str, tmp_path: Path) -> None:
    images = [(torch.randn(count, 3, 8, 8),) for count in (2, 3)]
    take(Resized().eval(), images, path, tmp_path, {"x": {0: "n"}})
