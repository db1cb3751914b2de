"""A computed weight is computed in each read, so a layer reads it once per forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hotwheels.amct_pytorch.nn.weighted_op import WeightedOp
from hotwheels.amct_pytorch.ops.desc import Role


class Counting(nn.Conv2d):
    """Counts the reads of its weight."""

    reads = 0

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        if name == "weight":
            type(self).reads += 1
        return super().__getattr__(name)


def test_shape_of_the_weight_is_read_once() -> None:
    op = WeightedOp(Counting(4, 6, 3, groups=2), Role.CONV)
    before = Counting.reads
    assert (op.out_channels, op.in_channels, op.channel_shape) == (6, 4, (-1, 1, 1))
    assert Counting.reads == before
    weight, _ = op.folded()
    assert Counting.reads == before + 1
    assert torch.equal(weight, op.module.weight)
