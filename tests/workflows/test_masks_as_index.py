"""Masks in an index: constant ones choose a known number of elements, on every path; and ranks, running bests, bins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.errors import UnsupportedModelError
from tests.support.whole_way import PATHS, take


class _Net(nn.Module):
    def __init__(self, choose: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.register_buffer("channels", torch.tensor([True, False, True, True, False, False, True, False]))
        self.register_buffer("pixels", torch.arange(36).view(6, 6) % 5 < 2)
        self.register_buffer("edges", torch.linspace(-1.0, 1.0, 5))
        self._choose = choose

    def forward(self, x: Tensor) -> Tensor:
        chosen = self._choose(self, self.conv(x))
        return self.head(x.mean((1, 2, 3))[:, None].expand(-1, 8)) + chosen.float().flatten(1).mean(1, keepdim=True)


def _filled(net: Any, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, net.channels] = 0.5
    x[x > 1] = 1.0
    return x


_CHOICES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "channels": lambda net, x: x[:, net.channels],
    "other channels": lambda net, x: x[:, ~net.channels],
    "pixels": lambda net, x: x[:, :, net.pixels],
    "ellipsis": lambda net, x: x[..., net.pixels[0]],
    "list": lambda _, x: x[:, :, [True, False, True, True, False, False]],
    "filled": _filled,
    "kthvalue": lambda _, x: x.flatten(1).kthvalue(5, 1, True).values,
    "median": lambda _, x: torch.median(x.flatten(1), 1, keepdim=True)[0],
    "median of all": lambda _, x: x - x.median(),
    "cummax": lambda _, x: torch.cummax(x, 2).values,
    "cummin": lambda _, x: torch.cat([x.cummin(3)[0], x.cummin(3)[1]], 1),
    "searchsorted": lambda net, x: torch.searchsorted(net.edges, x) + torch.bucketize(x, net.edges, right=True),
    "aminmax": lambda _, x: torch.aminmax(x, dim=1).max,
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", _CHOICES)
def test_files_compute_what_the_model_computes(name: str, path: str, tmp_path: Path) -> None:
    calls = [(torch.randn(count, 3, 6, 6),) for count in (2, 5)]
    if name == "median of all":  # it depends on the other samples
        calls = calls[:1]
    take(_Net(_CHOICES[name]).eval(), calls, path, tmp_path, {"x": {0: "n"}} if len(calls) > 1 else None)


def test_mask_of_the_data_is_refused_with_the_line(tmp_path: Path) -> None:
    model = _Net(lambda _, x: x[x > 0][None]).eval()
    with pytest.raises(UnsupportedModelError, match=r"(?s)a value of the data decides.*line \d+.*dynamic path"):
        amct.create_quant_config_fx(tmp_path / "config.json", model, input_data=torch.randn(2, 3, 6, 6))
