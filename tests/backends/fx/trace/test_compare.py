"""A graph may sum in another order than the model; it may not compute something else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.batches.example import Example
from hotwheels.amct_pytorch.backends.fx.trace import compare
from hotwheels.amct_pytorch.backends.fx.trace.capture import trace
from hotwheels.amct_pytorch.backends.fx.trace.compare import check_graph
from hotwheels.amct_pytorch.errors import UnsupportedModelError

X = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0))


class Sums(nn.Module):
    """Sums in another order, or something else, when it is not traced."""

    def __init__(self, other: Any, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.linear, self.other, self.dtype = nn.Linear(64, 64), other, dtype

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x if self.dtype is None else x.to(self.dtype))
        return self.other(y) if type(y) is Tensor else y.sum(-1)


def backwards(x: Tensor) -> Tensor:
    return torch.stack([one for one in x.flip(-1).unbind(-1)]).cumsum(0)[-1]


def nearly(x: Tensor) -> Tensor:
    return x.sum(-1) * (1 + 1e-5)


def checked(model: nn.Module, x: Tensor = X) -> None:
    graph = trace(model, ("torch.nn",), inputs=(x,))
    check_graph(model, graph, Example.of((x,), model.forward))


def test_another_order_of_a_sum_is_no_difference() -> None:
    torch.manual_seed(0)
    model = Sums(backwards).eval()
    with torch.no_grad():
        assert not torch.equal(model(X), model.linear(X).sum(-1))
    checked(model)


def test_what_is_more_than_rounding_is_a_difference() -> None:
    with pytest.raises(UnsupportedModelError, match="does not compute what the model computes"):
        checked(Sums(nearly).eval())


def test_a_model_that_does_not_run_in_float64_must_agree_in_every_bit() -> None:
    torch.manual_seed(0)
    with pytest.raises(UnsupportedModelError, match="does not compute what the model computes"):
        checked(Sums(backwards, torch.float32).eval())


@pytest.mark.parametrize(
    "found, expected, is_near",
    [
        ([1.0, 2.0], [1.0, 2.0 + 1e-6], True),
        ([1.0, 2.0], [1.0, 2.0 + 1e-5], False),
        ([float("inf"), 1.0], [float("inf"), 1.0], True),
        ([float("inf"), 1.0], [float("-inf"), 1.0], False),
        ([float("nan")], [float("nan")], True),
        ([float("nan")], [0.0], False),
        ([0.0], [0.0], True),
        ([1e-30], [0.0], False),
    ],
)
def test_near(found: list[float], expected: list[float], is_near: bool) -> None:
    assert compare._is_near(torch.tensor(found).double(), torch.tensor(expected).double()) is is_near


@pytest.mark.parametrize("shape", [(4, 9, 32), (2, 65, 32)])
def test_an_encoder_alone(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    checked(layer, torch.randn(shape))
