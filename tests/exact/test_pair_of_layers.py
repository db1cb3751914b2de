"""Layers that become several nodes, or choose pixels by a fraction: the oracle computes real_quant's integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.exact_pair import assert_exact
from tests.support.fx_path import quantize

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    **{
        f"nearest {scale}": lambda x, scale=scale: F.interpolate(x, scale_factor=scale)
        for scale in (0.6, 1.1, 1.2, 1.5, 1.7, 2.0, 2.3)
    },
    "nearest-exact": lambda x: F.interpolate(x, scale_factor=1.7, mode="nearest-exact"),
    "max_pool2d with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "indices": lambda x: x[..., ::2, ::2] + F.max_pool2d(x, 2, return_indices=True)[1] * 0.01,
    "tensor_split": lambda x: torch.cat(torch.tensor_split(x, (2, 5), 1)[::-1], 1),
    "hstack": lambda x: torch.hstack([x[:, :4], x[:, 4:] * 2]),
    "diagonal": lambda x: x.diagonal(dim1=2, dim2=3).unsqueeze(-1),
    "nan_to_num": torch.nan_to_num,
    "movedim": lambda x: torch.movedim(x, 1, -1).movedim(-1, 1),
    "floor division": lambda x: x // 0.5,
    "remainder": lambda x: x % 0.3,
    "logsigmoid": lambda x: F.logsigmoid(x * 100),
    "low threshold": lambda x: F.softplus(x, threshold=0.5),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
}


class Net(nn.Module):
    """A convolution, a call, a convolution."""

    def __init__(self, call: Callable[[Tensor], Tensor], **convolution: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1, **convolution), nn.Conv2d(8, 4, 1)
        self._call = call

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self._call(self.a(x)))
        return y


@pytest.mark.parametrize("name", CALLS)
def test_call_is_exact(name: str, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 12, 12)
    assert_exact(quantize(Net(CALLS[name]).eval(), tmp_path, [(x,)]), tmp_path, [x])


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_of_a_layer_keeps_the_integers(mode: str, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 12, 12)
    assert_exact(quantize(Net(torch.relu, padding_mode=mode).eval(), tmp_path, [(x,)]), tmp_path, [x])
