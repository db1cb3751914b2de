"""The plan: siblings share quantizers, BatchNorms are folded, layers that are off have a reason."""

from __future__ import annotations

import torch
from torch import nn

from hotwheels.amct_pytorch.config.layers.quant_config import LayerConfig, QuantConfig, QuantizerConfig
from hotwheels.amct_pytorch.graph import OpGraph
from hotwheels.amct_pytorch.plan.checks import find_violations
from hotwheels.amct_pytorch.plan.planner import make_plan
from tests.support.planned import changed, planned_graph


class Siblings(nn.Module):
    """``x`` feeds two convolutions and an addition; ``shared`` is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(4, 4, 1)
        self.bn = nn.BatchNorm2d(4)
        self.right = nn.Conv2d(4, 4, 1)
        self.shared = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn(self.left(x)) + x
        return self.shared(self.shared(y)) + self.right(x)


def with_bits(layer: LayerConfig, num_bits: int) -> tuple[QuantizerConfig, ...]:
    return tuple(QuantizerConfig(one.quantizer, {**one.args, "num_bits": num_bits}) for one in layer.activations)


def groups(graph: OpGraph, config: QuantConfig) -> dict[str, list[str]]:
    return {name: [one.group for one in layer.inputs] for name, layer in make_plan(graph, config).layers.items()}


def test_inputs_fed_by_one_tensor_with_equal_settings_share_a_group() -> None:
    assert groups(*planned_graph(Siblings())) == {
        "left": ["left:0"],
        "add": ["add:0", "left:0"],
        "shared": ["shared:0"],
        "shared_1": ["shared_1:0"],
        "right": ["left:0"],
        "add_1": ["add_1:0", "add_1:1"],
    }


def test_a_sibling_with_other_settings_stays_alone_and_is_reported() -> None:
    graph, config = planned_graph(Siblings())
    config = changed(config, "right", activations=with_bits(config.layers["right"], 12))
    assert groups(graph, config)["right"] == ["right:0"]
    assert [one.reason for one in find_violations(graph, config)] == [
        "Outputs left(onnx name: left) and right(onnx name: right) of layer x(onnx name: x)"
        " should have consistent num_bits"
    ]


class BesideOffByDefault(Siblings):
    """``x`` feeds a convolution and a GroupNorm, whose type generated configurations leave off."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.left(x) + self.norm(x)


def test_a_type_that_is_off_by_default_stays_in_float_beside_quantized_layers() -> None:
    graph, config = planned_graph(BesideOffByDefault())
    assert not config.layers["norm"].quant_enable
    assert not find_violations(graph, config)
    graph, config = planned_graph(Siblings())
    assert {one.rule for one in find_violations(graph, changed(config, "right", quant_enable=False))} == {2, 4}


def test_call_sites_of_a_shared_module_share_the_weight_quantizer() -> None:
    plan = make_plan(*planned_graph(Siblings()))
    assert {name: layer.weight_group for name, layer in plan.layers.items() if layer.weight} == {
        "left": "left",
        "shared": "shared",
        "shared_1": "shared",
        "right": "right",
    }


def test_the_batch_norm_behind_a_convolution_is_folded() -> None:
    plan = make_plan(*planned_graph(Siblings()))
    assert plan.layers["left"].folded.behind == ("bn",)
    assert not plan.layers["right"].folded.behind


def test_what_is_switched_off_or_deleted_is_a_skip_with_a_reason() -> None:
    graph, config = planned_graph(Siblings())
    config = changed(config, "right", quant_enable=False)
    config = QuantConfig({name: layer for name, layer in config.layers.items() if name != "add"})
    skips = {skip.name: skip.reason for skip in make_plan(graph, config).skips}
    assert skips["right"] == "quant_enable is false"
    assert skips["add"] == "not in the configuration"


def test_a_cube_operation_that_is_off_is_reported() -> None:
    graph, config = planned_graph(Siblings())
    violations = find_violations(graph, changed(config, "shared", quant_enable=False))
    assert [one.reason for one in violations] == [
        "Layer shared must be quantized as it is an operation calculated on CUBE"
    ]


def test_a_linear_shares_with_others_only_if_no_rank_can_change_it() -> None:
    """On more than two dimensions it is forced symmetric (spec 8.3); what is symmetric anyway stays as it is."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) + x

    graph, config = planned_graph(Net())
    assert groups(graph, config) == {"fc": ["fc:0"], "add": ["add:0", "add:1"]}
    for name in ("fc", "add"):
        activations = config.layers[name].activations
        symmetric = tuple(QuantizerConfig(one.quantizer, {**one.args, "with_offset": False}) for one in activations)
        config = changed(config, name, activations=symmetric)
    assert groups(graph, config) == {"fc": ["fc:0"], "add": ["add:0", "fc:0"]}


class Selects(nn.Module):
    """A ReLU and a max pooling behind an addition; ``double`` is read by a ReLU and by a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 1)
        self.second = nn.Conv2d(4, 4, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.pool(torch.relu(x + 1.0))
        double = y + y
        z = torch.cat([torch.relu(double), self.first(double)], 1)
        left, right = torch.split(z, 4, 1)
        return torch.clamp(self.second(left) + right, -1.0, 1.0)


def grids(graph: OpGraph, config: QuantConfig) -> dict[str, list[str]]:
    return {name: [one.grid for one in layer.inputs] for name, layer in make_plan(graph, config).layers.items()}


def test_a_selecting_layer_has_the_grid_of_the_inputs_that_read_its_result() -> None:
    graph, config = planned_graph(Selects())
    found = grids(graph, config)
    assert found["relu"] == found["pool"] == ["add_1:0"], "through both, since add_1 reads the pooling"
    assert found["relu_1"] == found["first"] == ["relu_1:0"], "the convolution reads the same tensor"
    assert found["cat"] == ["split:0", "split:0"]
    assert found["clamp"] == ["clamp:0"], "no quantized input reads its result"


def test_only_the_inputs_behind_a_selecting_layer_observe() -> None:
    plan = make_plan(*planned_graph(Selects()))
    observed = {name: [one.is_observed for one in layer.inputs] for name, layer in plan.layers.items()}
    assert observed["relu"] == observed["pool"] == [False]
    assert observed["cat"] == [False, False]
    assert all(all(flags) for name, flags in observed.items() if name not in ("relu", "pool", "cat"))


def test_a_selecting_layer_with_other_settings_keeps_its_own_grid() -> None:
    graph, config = planned_graph(Selects())
    config = changed(config, "pool", activations=with_bits(config.layers["pool"], 12))
    found = grids(graph, config)
    assert (found["relu"], found["pool"]) == (["relu:0"], ["pool:0"])


def test_a_selecting_layer_between_readers_of_different_settings_keeps_its_own_grid() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Conv2d(4, 4, 1)
            self.right = nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(x + 1.0)
            return self.left(y) + self.right(y)

    graph, config = planned_graph(Net())
    assert grids(graph, config)["relu"] == ["left:0"]
    config = changed(config, "right", activations=with_bits(config.layers["right"], 12))
    assert grids(graph, config)["relu"] == ["relu:0"]
