"""Bilinear functions and torch.convolution are layers with the results of the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.backend import FxBackend
from hotwheels.amct_pytorch.ops.registry import Registry
from tests.support.both_paths import saved

X = [torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


class Net(nn.Module):
    """``kind`` is the call behind a Linear or convolution."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first, self.last = kind, nn.Conv2d(4, 4, 1), nn.Linear(5, 3)
        self.bilinear = nn.Bilinear(6, 6, 5, bias="bias" in kind)
        self.weight, self.norm = nn.Parameter(torch.randn(4, 2, 3, 3) / 4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        if "convolution" in self.kind:
            more = [int("transposed" in self.kind)] * 2
            settings = ([2, 2], [1, 1], [1, 1], "transposed" in self.kind, more)
            y: Tensor = self.norm(torch.convolution(x, self.weight, None, *settings, groups=2))
            return y
        if "function" in self.kind:
            return self.last(F.bilinear(x, x.flip(1), self.bilinear.weight, self.bilinear.bias))
        return self.last(self.bilinear(x, input2=x.flip(1)))


KINDS: dict[str, list[str]] = {
    "module": ["first", "bilinear_linear", "bilinear", "last"],
    "module, bias": ["first", "bilinear_linear", "bilinear", "last"],
    "function, bias": ["first", "bilinear_linear", "bilinear", "last"],
    "convolution": ["first", "convolution"],
}


def make(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return Net(kind).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_call_is_layers_with_the_result_of_the_model(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    backend = FxBackend(model, Registry())
    products = {node.name for node in backend.graph().quantizable if node.op is not None and node.op.is_cube}
    assert products == set(KINDS[kind])
    with torch.no_grad():
        torch.testing.assert_close(backend.traced(X[0]), model(X[0]))
    saved("fx", make(kind), tmp_path, X).assert_exact(X[1])


@pytest.mark.parametrize(("kind", "share"), [("module", 1.0), ("convolution", 1.0)])
def test_multiplications_are_on_integers(kind: str, share: float) -> None:
    report = amct.check_model(make(kind), (X[0],))
    assert report.multiplications is not None
    assert report.multiplications.share == share
    assert not report.batch_norms


def test_transposed_convolution_equals_the_model() -> None:
    model = make("convolution, transposed")
    backend = FxBackend(model, Registry())
    with torch.no_grad():
        torch.testing.assert_close(backend.traced(X[0]), model(X[0]))
    assert not backend.graph()["norm"].is_quantizable
