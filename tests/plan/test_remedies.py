"""Configurations that apply advice: they have the promised effect and violate no rule between layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from hotwheels.amct_pytorch.config.fx.expand import expand
from hotwheels.amct_pytorch.config.fx.simple_yaml import parse_simple_yaml
from hotwheels.amct_pytorch.config.layers.quant_config import QuantConfig, QuantizerConfig
from hotwheels.amct_pytorch.graph import OpGraph
from hotwheels.amct_pytorch.plan.advice import Remedy
from hotwheels.amct_pytorch.plan.checks import find_violations
from hotwheels.amct_pytorch.plan.configured_graph import ConfiguredGraph, LayerInput, inputs_of
from hotwheels.amct_pytorch.plan.remedies import left_in_float, unified, widened, without_offset
from tests.support.planned import changed, planned_graph


class Net(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(self, x, y)


def configured(function: Callable[..., Tensor]) -> ConfiguredGraph:
    return ConfiguredGraph(*planned_graph(Net(function)))


def applied(graph: OpGraph, settings: Mapping[str, Any] | None) -> QuantConfig:
    """The configuration that comes out of the yaml of a remedy."""
    assert settings is not None
    text = Remedy("", settings).yaml
    assert text is not None and "&" not in text, "no anchors"
    return expand(graph, parse_simple_yaml(text, "advice"))


def widths(config: QuantConfig) -> dict[str, list[int]]:
    return {name: [one.args["num_bits"] for one in layer.activations] for name, layer in config.layers.items()}


def test_wider_inputs_take_along_what_shares_a_grid_with_them() -> None:
    """Siblings, what reads a no-command op, and their siblings."""
    model = configured(
        lambda net, x, y: net.conv(torch.cat([x, y], 1).permute(0, 1, 3, 2)) + torch.abs(x) * torch.relu(y)
    )
    config = applied(model.graph, widened(model, inputs_of(model.graph["cat"]), 12))
    assert widths(config) == {
        "cat": [12, 12],
        "permute": [12],
        "conv": [12],
        "abs_1": [12],
        "relu": [12],
        "mul": [8, 8],
        "add": [8, 8],
    }
    assert not find_violations(model.graph, config)


def test_one_input_of_a_layer_may_be_wider_alone() -> None:
    model = configured(lambda net, x, y: net.conv(x * y))
    config = applied(model.graph, widened(model, [LayerInput("mul", 1)], 12))
    assert widths(config) == {"mul": [8, 12], "conv": [8]}


@pytest.mark.parametrize(
    ("function", "is_possible"),
    [
        (lambda net, x, y: torch.cat([x, y], 1) @ net.conv(x), True),
        (lambda net, x, y: net.conv(x) @ torch.cat([x, y], 1), False),
    ],
    ids=["first input", "second input"],
)
def test_second_input_of_a_matmul_cannot_be_wider(function: Callable[..., Tensor], is_possible: bool) -> None:
    model = configured(function)
    assert (widened(model, inputs_of(model.graph["cat"]), 12) is not None) == is_possible


def test_fixed_grid_is_not_touched() -> None:
    model = configured(lambda net, x, y: net.conv(x * y))
    fixed = QuantizerConfig("FixedFakeQuantize", {"scale": 0.1, "zero_point": 0})
    config = changed(model.config, "mul", activations=(fixed, fixed))
    model = dataclasses.replace(model, config=config)
    assert widened(model, inputs_of(model.graph["mul"]), 12) is None
    assert without_offset(model, inputs_of(model.graph["mul"])) is None


def test_weights_of_4_bits_take_no_wider_data() -> None:
    """The hardware pairs data of more than 8 bits with weights of 8 bits (spec 4.2)."""
    model = configured(lambda net, x, y: net.conv(torch.cat([x, y], 1)))
    narrow = QuantizerConfig("SnqWeightFakeQuantize", {"num_bits": 4})
    model = dataclasses.replace(model, config=changed(model.config, "conv", weight=narrow))
    assert widened(model, inputs_of(model.graph["cat"]), 12) is None


def test_wider_inputs_do_not_become_narrower() -> None:
    model = configured(lambda net, x, y: net.conv(x * y))
    wide, narrow = model.config.layers["mul"].activations
    wide = QuantizerConfig(wide.quantizer, {**wide.args, "num_bits": 16})
    model = dataclasses.replace(model, config=changed(model.config, "mul", activations=(wide, narrow)))
    assert widths(applied(model.graph, widened(model, inputs_of(model.graph["mul"]), 12)))["mul"] == [16, 16]


def test_left_in_float_with_all_that_may_not_stay() -> None:
    model = configured(lambda net, x, y: net.conv(torch.relu(torch.abs(x).permute(0, 1, 3, 2) * y)) + torch.tanh(y))
    settings = left_in_float(model, ["mul"])
    assert settings == {"skip_layers": ["permute", "mul", "tanh"]}
    assert not find_violations(model.graph, applied(model.graph, settings))


def test_nothing_beside_the_cube_is_left_in_float() -> None:
    model = configured(lambda net, x, y: net.conv(x) + torch.relu(x) * y)
    assert left_in_float(model, ["relu"]) is None
    assert left_in_float(model, ["mul"]) == {"skip_layers": ["mul"]}


def test_unified_settings_are_the_widest_ones() -> None:
    model = configured(lambda net, x, y: net.conv(x) + torch.abs(x) * y)
    wide = tuple(
        QuantizerConfig(one.quantizer, {**one.args, "num_bits": 12}) for one in model.config.layers["abs_1"].activations
    )
    model = dataclasses.replace(model, config=changed(model.config, "abs_1", activations=wide))
    settings = unified(model, [LayerInput("conv", 0)])
    assert settings is not None
    assert [one["layer_name"] for one in settings["override_layer_configs"]] == [["conv"]], "only what changes"
    assert widths(applied(model.graph, settings))["conv"] == [12]


def test_what_a_matmul_needs_goes_before_the_widest_settings() -> None:
    model = configured(lambda net, x, y: net.conv(y @ x) + torch.abs(x))
    wide = tuple(
        QuantizerConfig(one.quantizer, {**one.args, "num_bits": 12}) for one in model.config.layers["abs_1"].activations
    )
    model = dataclasses.replace(model, config=changed(model.config, "abs_1", activations=wide))
    config = applied(model.graph, unified(model, [LayerInput("abs_1", 0)]))
    matmul, other = config.layers["matmul"].activations[1], config.layers["abs_1"].activations[0]
    assert (other.quantizer, other.args["num_bits"], other.args["with_offset"]) == (matmul.quantizer, 8, False)
    assert not find_violations(model.graph, config)


def test_a_layer_that_is_switched_on_brings_its_other_inputs_along() -> None:
    """Its other input is read by a layer that is off as well, and so on."""
    model = configured(lambda net, x, y: (net.conv(x), torch.mul(x, y), torch.tanh(y)))
    off = changed(changed(model.config, "mul", quant_enable=False), "tanh", quant_enable=False)
    model = dataclasses.replace(model, config=off)
    settings = unified(model, [LayerInput("conv", 0)])
    assert settings is not None
    assert [one["layer_name"] for one in settings["override_layer_configs"]] == [["mul", "tanh"]]
    definition = yaml.safe_dump({"common_config": {"quant_enable": False}, **settings})
    config = expand(model.graph, parse_simple_yaml(definition, "advice"))
    assert [name for name, layer in config.layers.items() if layer.quant_enable] == ["mul", "tanh"]


def test_deleted_layer_is_off() -> None:
    """A layer without an entry in config.json has none in the configuration."""
    model = configured(lambda net, x, y: net.conv(x) + torch.abs(x))
    config = QuantConfig({name: layer for name, layer in model.config.layers.items() if name != "abs_1"})
    settings = unified(dataclasses.replace(model, config=config), [LayerInput("conv", 0)])
    assert settings is not None
    assert "abs_1" in settings["override_layer_configs"][0]["layer_name"]
