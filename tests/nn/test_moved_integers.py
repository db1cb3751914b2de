"""Operations that only move elements work on integers in real_quant; their results are those in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.nn import integer_layer
from tests.support.fx_path import quantize


class Moving(nn.Module):
    """Two convolutions, an operation that moves their results, and a convolution of that."""

    def __init__(self, move: Callable[[Tensor, Tensor], Tensor], channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.last, self.move = nn.Conv2d(channels, 4, 1), move

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.move(self.first(x), 3 * self.second(x)))


MOVES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "cat": (lambda a, b: torch.cat([a, b], 1), 16),
    "cat of a negative axis": (lambda a, b: torch.cat((a, b), dim=-1), 8),
    "cat of three": (lambda a, b: torch.cat([a, b, a], 1), 24),
    "split": (lambda a, b: torch.split(a + b, [3, 5], 1)[1], 5),
    "split, method": (lambda a, b: (a + b).split(4, 1)[0] * 2, 4),
    "permute": (lambda a, b: torch.permute(a + b, (0, 3, 1, 2)), 10),
    "transpose": (lambda a, b: (a + b).transpose(1, 2), 10),
    "view": (lambda a, b: (a + b).view(2, 4, 20, 10), 4),
    "reshape": (lambda a, b: (a + b).reshape(2, 16, 5, 10), 16),
}


@pytest.mark.parametrize("name", MOVES)
def test_the_result_is_that_of_float64(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    torch.manual_seed(0)
    move, channels = MOVES[name]
    net, x = Moving(move, channels).eval(), torch.randn(2, 3, 10, 10)
    quantized = quantize(net, tmp_path, [(x,)])
    amct.enable_quantization(quantized, real_quant=True)
    calls = []
    ours = integer_layer._moved
    monkeypatch.setattr(integer_layer, "_moved", lambda *given: calls.append(ours(*given)) or calls[-1])
    with torch.no_grad():
        found = quantized(x)
        assert any(one is not None for one in calls)
        monkeypatch.setattr(integer_layer, "_moved", lambda *_: None)
        assert torch.equal(found, quantized(x))
