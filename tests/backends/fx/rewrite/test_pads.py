"""Zeros padded in front of a convolution or pooling are its ``pads`` in the files, if the result is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.backend import FxBackend
from hotwheels.amct_pytorch.ops.registry import Registry
from tests.support.both_paths import Saved, saved
from tests.support.padded_nets import FOLDED, KEPT, Padded, pad_by

X = [torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


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
    model = Padded(pad_by(1, 0, 2, 1), nn.Conv2d(4, 4, 3, padding=1)).eval()
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
