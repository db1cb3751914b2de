"""The list of all modules is that of torch."""

from __future__ import annotations

from torch import nn

from hotwheels.amct_pytorch.quantizers.module_walk import all_modules


def test_it_has_the_modules_of_torch_in_the_same_order() -> None:
    shared = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
    net = nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1), shared), nn.BatchNorm2d(1), shared)
    net.append(nn.ModuleList([shared[0]]))
    net.register_module("absent", None)
    net[0].append(nn.Identity())
    assert all_modules(net) == list(net.modules())
