"""Zeros padded in front of a convolution or pooling are its ``pads`` in the files, if the result is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.backend import FxBackend
from hotwheels.amct_pytorch.ops.registry import Registry
from tests.support.both_paths import Saved, saved


class Padded(nn.Module):
    """A convolution, perhaps an activation, the padding, the layer, and a layer that rounds its result."""

    def __init__(self, pad: Callable[[Tensor], Tensor], layer: nn.Module, bend: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.bend = nn.Conv2d(3, 4, 3), bend or nn.Identity()
        self.pad, self.layer, self.last = pad, layer, nn.ELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.pad(self.bend(self.first(x)))))


class CalledPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, (3, 2), stride=2)


class Shared(nn.Module):
    """The padding is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.first(x), (1, 1, 1, 1))
        return self.layer(x) + self.other(x)


def _f(*margins: int, **kwargs: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: F.pad(x, margins, **kwargs)


class Sequence1d(nn.Module):
    """`Padded` with sequences."""

    def __init__(self, margins: tuple[int, int], layer: nn.Module) -> None:
        super().__init__()
        self.first, self.bend, self.margins = nn.Conv1d(3, 4, 3), nn.ReLU(), margins
        self.layer, self.last = layer, nn.ELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(F.pad(self.bend(self.first(x[:, :, 0])), self.margins)))


X = [torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
FOLDED = {
    "ZeroPad2d, stride": (lambda: Padded(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 4, 3, stride=2)), [0, 0, 1, 1]),
    "ConstantPad2d": (lambda: Padded(nn.ConstantPad2d((2, 0, 1, 3), 0.0), nn.Conv2d(4, 4, 3)), [1, 2, 3, 0]),
    "own padding": (lambda: Padded(_f(1, 2), nn.Conv2d(4, 4, 3, padding=(0, 1), groups=2)), [0, 2, 0, 3]),
    "same": (lambda: Padded(_f(1, 0), nn.Conv2d(4, 4, 3, padding="same", dilation=2)), [2, 3, 2, 2]),
    "weight_norm": (
        lambda: Padded(_f(0, 1, 1, 0), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 2))), [1, 0, 0, 1]
    ),
    "avg_pool": (lambda: Padded(_f(1, 0, 2, 1), nn.AvgPool2d(3, 2)), [2, 1, 1, 0]),
    "avg_pool, counted padding": (lambda: Padded(_f(1, 0, 0, 1), nn.AvgPool2d(3, 2, 1)), [1, 2, 2, 1]),
    "F.avg_pool2d": (lambda: Padded(_f(1, 0), CalledPool()), [0, 1, 0, 0]),
    "max_pool of ReLU": (lambda: Padded(_f(0, 1, 0, 1), nn.MaxPool2d(3, 2), nn.ReLU()), [0, 0, 1, 1]),
    "Conv1d": (lambda: Sequence1d((2, 0), nn.Conv1d(4, 4, 3)), [0, 2, 0, 0]),
    "MaxPool1d": (lambda: Sequence1d((1, 0), nn.MaxPool1d(3, 2, 1)), [0, 2, 0, 1]),
    "AvgPool1d": (lambda: Sequence1d((0, 2), nn.AvgPool1d(3, 1)), [0, 0, 0, 2]),
    "max_pool of a pooling": (
        lambda: Padded(_f(0, 1), nn.MaxPool2d(2), nn.Sequential(nn.Sigmoid(), nn.AvgPool2d(2))), [0, 0, 0, 1]
    ),
}  # fmt: skip
KEPT = {
    "max_pool of any value": lambda: Padded(_f(0, 1, 0, 1), nn.MaxPool2d(3, 2)),
    "avg_pool, padding that does not count": lambda: Padded(_f(1, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "as large as the window": lambda: Padded(_f(2, 0), nn.AvgPool2d(2)),
    "ceil_mode": lambda: Padded(_f(1, 0), nn.AvgPool2d(2, ceil_mode=True)),
    "another value": lambda: Padded(_f(1, 1, value=0.5), nn.Conv2d(4, 4, 3)),
    "another mode": lambda: Padded(_f(1, 1, 1, 1, mode="reflect"), nn.Conv2d(4, 4, 3)),
    "cropping": lambda: Padded(_f(1, -1), nn.Conv2d(4, 4, 3)),
    "channels": lambda: Padded(_f(0, 0, 0, 0, 0, 1), nn.Conv2d(5, 4, 3)),
    "circular convolution": lambda: Padded(_f(1, 1), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")),
    "transposed convolution": lambda: Padded(_f(1, 1), nn.ConvTranspose2d(4, 4, 3)),
    "read twice": Shared,
}


def _saved(make: Callable[[], nn.Module], folder: Path) -> Saved:
    torch.manual_seed(0)
    return saved("fx", make().eval(), folder, X)


@pytest.mark.parametrize("name", FOLDED)
def test_padding_becomes_pads(name: str, tmp_path: Path) -> None:
    make, pads = FOLDED[name]
    found = _saved(make, tmp_path)
    assert found.assert_exact(2 * X[1]).sums == len(found.layers) - 1
    for kind in ("deploy", "fake_quant", "float"):
        nodes = found.nodes(kind)
        assert "Pad" not in {node.op_type for node in nodes}, kind
        windows = [list(one.ints) for node in nodes for one in node.attribute if one.name == "pads"]
        assert windows[-1] == pads, kind
    apart = found.steps_apart(X[0], found.record.layers["last"].activations[0].scale)
    assert np.mean(apart < 0.01) >= 0.99
    assert apart.max() <= 1.01


@pytest.mark.parametrize("name", KEPT)
def test_padding_stays_where_the_result_would_be_another(name: str, tmp_path: Path) -> None:
    found = _saved(KEPT[name], tmp_path)
    found.assert_exact(2 * X[1])
    assert {"Pad", "Concat", "Slice"} & {node.op_type for node in found.nodes()}


def test_float_values_are_those_of_the_model() -> None:
    torch.manual_seed(0)
    model = Padded(_f(1, 0, 2, 1), nn.Conv2d(4, 4, 3, padding=1)).eval()
    with torch.no_grad():
        assert torch.equal(FxBackend(model, Registry()).traced(X[0]), model(X[0]))


def test_batch_norm_in_front_of_a_padding_is_a_layer() -> None:
    """It would shift the zeros; a BatchNorm behind is folded as ever."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    graph = FxBackend(model, Registry()).graph()
    assert [node.name for node in graph.quantizable] == ["_0", "_2"]
    assert graph["_0"].unfolded_reason == "'_2' behind it pads with zeros, which it would shift"


def test_trains_as_a_convolution_with_padding(tmp_path: Path) -> None:
    results = []
    for front, padding in ((nn.ZeroPad2d(1), 0), (nn.Identity(), 1)):
        torch.manual_seed(0)
        model = nn.Sequential(front, nn.Conv2d(3, 4, 3, padding=padding), nn.BatchNorm2d(4), nn.ReLU())
        config = tmp_path / f"{padding}.json"
        amct.create_quant_config_fx(config, model)
        quantized = amct.create_quant_model_fx(config, model)
        amct.enable_quantization(quantized, calibration=True)
        quantized(X[0])
        amct.enable_quantization(quantized, fake_quant=True)
        quantized.train()(X[0]).square().mean().backward()
        parameters = dict(quantized.named_parameters())
        results.append(
            (parameters["1.weight"].grad, parameters["2.weight"].grad, quantized.state_dict()["2.running_var"])
        )
    for padded, plain in zip(*results, strict=True):
        torch.testing.assert_close(padded, plain, rtol=1e-4, atol=1e-6)
