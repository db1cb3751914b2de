"""Layers of one kind on both paths: real_quant == oracle on every integer, the fake_quant file in a default session."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.both_paths import PATHS, saved


class Between(nn.Module):
    """A convolution, the layer, and a layer that rounds its result."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Conv2d(3, 4, 3, padding=1), layer, nn.ELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x)))


LAYERS = (
    nn.Hardsigmoid(),
    nn.GroupNorm(2, 4),
    nn.GroupNorm(4, 4, affine=False),
    nn.InstanceNorm2d(4, affine=True),
    nn.RMSNorm(6),
    nn.RMSNorm((6, 6), eps=1e-3, elementwise_affine=False),
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_layer_that_is_off_by_default(layer: nn.Module, path: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    model = Between(layer).eval()
    batches = [torch.randn(4, 3, 6, 6) for _ in range(2)]
    assert "layer" not in saved(path, model, tmp_path, batches).layers
    found = saved(path, model, tmp_path, batches, on=["layer"])
    assert found.assert_exact(2 * batches[1]).edges == 3
    assert len(found.record.layers["layer"].activations) == 1
    apart = found.steps_apart(batches[0], found.record.layers["last"].activations[0].scale)
    assert np.mean(apart < 0.01) >= 0.98  # beside a tie the sums of the runtime fall on the other side
    assert apart.max() <= 1.01


class OfSequences(nn.Module):
    """The layer on [batch, channels, steps] between two convolutions of sequences with BatchNorm and ReLU."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.relu = nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU()
        self.layer, self.last, self.bend = layer, nn.Conv1d(4, 5, 1, bias=False), nn.ELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.bend(self.last(self.layer(self.relu(self.norm(self.first(x))))))


SEQUENCE_LAYERS = (
    nn.Conv1d(4, 4, 3, stride=2, padding=1),
    nn.Conv1d(4, 4, 5, padding=4, dilation=2, groups=4, bias=False),
    nn.Conv1d(4, 4, 4, padding="same"),
    nn.Conv1d(4, 4, 3, padding=2, padding_mode="circular"),
    nn.ConvTranspose1d(4, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
    nn.MaxPool1d(3, 2, 1, ceil_mode=True),
    nn.AvgPool1d(3, 2, 1),
    nn.AvgPool1d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    nn.AdaptiveAvgPool1d(4),
    nn.AdaptiveMaxPool1d(1),
)
_CONFIGURATIONS = {
    "8 bits": (8, {}),
    "4 bits": (4, {"num_bits": 4}),
    "16 bits": (16, {"channel_wise": False}),
}


def _set_bits(document: dict[str, Any], data_bits: int, weights: Mapping[str, Any]) -> None:
    """In the documents of both paths."""
    for layer in (one for one in document.values() if isinstance(one, dict) and "activation_quant_params" in one):
        for data in layer["activation_quant_params"]:
            data.get("quantizer_args", data)["num_bits"] = data_bits
        weight = layer.get("weight_quant_params", {})
        weight.get("quantizer_args", weight).update(weights)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layer", SEQUENCE_LAYERS, ids=str)
def test_layer_of_sequences(layer: nn.Module, path: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = OfSequences(copy.deepcopy(layer))
    nn.init.uniform_(model.norm.weight, 0.5, 1.5)
    nn.init.normal_(model.norm.running_mean, 0, 0.3)
    batches = [torch.randn(3, 3, 16) for _ in range(2)]
    name = list(_CONFIGURATIONS)[SEQUENCE_LAYERS.index(layer) % len(_CONFIGURATIONS)]
    found = saved(
        path, model.eval(), tmp_path, batches, change=lambda document: _set_bits(document, *_CONFIGURATIONS[name])
    )
    assert list(found.layers) == ["first", "layer", "last", "bend"]  # norm and relu belong to the first one
    comparison = found.assert_exact(1.5 * batches[1])
    assert (comparison.edges, comparison.sums) == (4, 3)
    nodes = {node.name: node for node in found.nodes()}
    assert "BatchNormalization" not in {node.op_type for node in nodes.values()}
    types = {one: nodes[one].op_type for one in ("last/Unsqueeze", "last", "last/Squeeze")}
    assert list(types.values()) == ["Unsqueeze", "Conv", "Squeeze"]
    grids = {layer.name: layer.inputs for layer in found.parameters.layers}
    assert grids["last"] == grids["last/Unsqueeze"] != grids["last/Squeeze"]
    kernels = {len(one.ints) for node in nodes.values() for one in node.attribute if one.name == "kernel_shape"}
    assert kernels == {2}  # images, all of them
    apart = found.steps_apart(batches[0], found.record.layers["bend"].activations[0].scale)
    assert np.mean(apart < 0.01) >= 0.97
    assert apart.max() <= 1.01


class OfVectors(nn.Module):
    """As in LeViT: a BatchNorm1d behind a Linear, with and without a bias."""

    def __init__(self, bias: bool, affine: bool) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(12, 8, bias=bias), nn.BatchNorm1d(8, affine=affine)
        self.last, self.bend = nn.Linear(8, 5), nn.ELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.bend(self.last(self.norm(self.first(x.flatten(1))).tanh()))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("bias", "affine"), [(True, True), (False, True), (False, False)])
def test_batch_norm_behind_a_linear_is_folded(bias: bool, affine: bool, path: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = OfVectors(bias, affine).eval()
    nn.init.normal_(model.norm.running_mean, 0, 0.3)
    nn.init.uniform_(model.norm.running_var, 0.5, 2.0)
    batches = [torch.randn(8, 3, 4) for _ in range(2)]
    found = saved(path, model, tmp_path, batches)
    assert not {"norm"} & {*found.layers, *(node.name for node in found.nodes())}
    assert "BatchNormalization" not in {node.op_type for node in found.nodes()}
    assert found.assert_exact(1.5 * batches[1]).sums == 2
    apart = found.steps_apart(batches[0], found.record.layers["bend"].activations[0].scale)
    assert np.mean(apart < 0.01) >= 0.97
    assert apart.max() <= 1.01
