"""A module of which only the training flag is used: the graph reads the flag and does not call the module."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, fx, nn

from hotwheels.amct_pytorch.backends.fx.backend import FxBackend
from hotwheels.amct_pytorch.ops.registry import Registry


@fx.wrap
def halved_in_training(x: Tensor, training: bool) -> Tensor:
    return x / 2 if training else x


class Depth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return halved_in_training(x, self.training)


def test_flag_is_read_from_a_module_which_the_graph_does_not_call() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch.fx warns of attributes that are no tensors
        traced = FxBackend(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(Depth())).eval(), Registry()).traced
    x = torch.randn(1, 3, 4, 4)
    expected = traced(x)
    assert torch.equal(traced.train()(x), expected / 2)
    assert torch.equal(traced.eval()(x), expected)
