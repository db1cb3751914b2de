from __future__ import annotations

import dataclasses
import importlib
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch.nn as amct_nn
from hotwheels.amct_pytorch.backends.fx.read.graph import build_graph
from hotwheels.amct_pytorch.backends.fx.rewrite.functionalize import functionalize
from hotwheels.amct_pytorch.backends.fx.rewrite.norm_calls import place_norm_calls
from hotwheels.amct_pytorch.backends.fx.rewrite.weighted_calls import place_weighted_calls
from hotwheels.amct_pytorch.backends.fx.trace.capture import trace
from hotwheels.amct_pytorch.custom_op import Cat, EltwiseAdd
from hotwheels.amct_pytorch.graph import Form, OpGraph, OpNode
from hotwheels.amct_pytorch.ops.desc import OpDesc, Role
from hotwheels.amct_pytorch.ops.registry import Registry
from hotwheels.amct_pytorch.ops.table import TABLE

REGISTRY = Registry()


@torch.fx.wrap
def user_function(x: Tensor) -> Tensor:
    return x


class Model(nn.Module):
    def __init__(self, **members: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.linear = nn.Linear(4, 4, bias=False)
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.register_buffer("table", torch.randn(4, 4))
        for name, member in members.items():
            setattr(self, name, member)


def graph_of(forward: Callable[..., Any], registry: Registry = REGISTRY, **members: Any) -> OpGraph:
    model = type("Net", (Model,), {"forward": forward})(**members)
    traced = trace(model, registry.leaf_packages, registry.is_leaf_type)
    place_weighted_calls(traced)
    place_norm_calls(traced)
    return build_graph(traced, registry)


def producers(node: OpNode) -> list[str]:
    return [edge.producer for edge in node.edges]


def quantizable(graph: OpGraph) -> list[str]:
    return [node.name for node in graph.quantizable]


# --- every spelling of the table ---

# What follows the first tensor in a call; None stands for a second tensor.
EXTRA: dict[str, tuple[Any, ...]] = {
    "add": (None,), "sub": (None,), "mul": (None,), "div": (None,), "pow": (None,),
    "matmul": (None,), "bmm": (None,), "max": (1, True), "min": (1, True), "clamp": (0, 1),
    "max_pool2d": (2,), "avg_pool2d": (2,), "adaptive_max_pool2d": (1,), "adaptive_avg_pool2d": (1,),
    "max_pool1d": (2,), "avg_pool1d": (2,), "adaptive_max_pool1d": (1,), "adaptive_avg_pool1d": (1,),
    "permute": ((0, 2, 1, 3),), "transpose": (1, 2), "split": (2,), "flatten": (1,), "squeeze": (1,),
    "unsqueeze": (1,), "reshape": ((2, -1),), "view": (2, -1), "softmax": (1,), "log_softmax": (1,),
    "group_norm": (2,), "rms_norm": ((4,),),
}  # fmt: skip
LISTS = {"cat", "stack"}
# torch.fx records what these call.
RECORDED = {
    "torch.nn.functional.upsample": "torch.nn.functional.interpolate",
    "torch.nn.functional.sigmoid": "sigmoid",
    "torch.nn.functional.tanh": "tanh",
    "torch.relu_": "torch.nn.functional.relu_",
    "torch.prelu": "torch.nn.functional.prelu",
    "operator.iadd": "operator.add",
    "operator.isub": "operator.sub",
    "operator.imul": "operator.mul",
    "operator.itruediv": "operator.truediv",
    "operator.ipow": "operator.pow",
    "operator.imatmul": "operator.matmul",
}
MODULES: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(4, 4),
    "Conv2d": lambda: nn.Conv2d(4, 4, 1),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(4, 4, 1),
    "Conv1d": lambda: nn.Conv1d(4, 4, 1),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(4, 4, 1),
    "MaxPool1d": lambda: nn.MaxPool1d(2),
    "AvgPool1d": lambda: nn.AvgPool1d(2),
    "AdaptiveMaxPool1d": lambda: nn.AdaptiveMaxPool1d(1),
    "AdaptiveAvgPool1d": lambda: nn.AdaptiveAvgPool1d(1),
    "MaxPool2d": lambda: nn.MaxPool2d(2),
    "AvgPool2d": lambda: nn.AvgPool2d(2),
    "AdaptiveMaxPool2d": lambda: nn.AdaptiveMaxPool2d(1),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d(1),
    "BatchNorm2d": lambda: nn.BatchNorm2d(4),
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(4),
}
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "LayerNorm": (4,), "RMSNorm": (4,), "GroupNorm": (2, 4), "InstanceNorm1d": (4,), "InstanceNorm2d": (4,),
    "InstanceNorm3d": (4,), "SpaceToDepth": (2,), "DepthToSpace": (2,),
}  # fmt: skip


def resolve(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def call_arguments(desc: OpDesc, x: Any, y: Any) -> tuple[Any, ...]:
    if desc.name in LISTS:
        return ([x, y],)
    if desc.name == "resize":
        return (x, (4, 4))
    if desc.name == "prelu":
        return (x, y)
    return (x, *(y if one is None else one for one in EXTRA.get(desc.name, ())))


def expected_inputs(desc: OpDesc) -> list[str]:
    has_two = desc.name in LISTS or None in EXTRA.get(desc.name, ())
    return ["gelu", "gelu_1"] if has_two else ["gelu"]


def only_op(graph: OpGraph, desc: OpDesc) -> OpNode:
    (found,) = [
        node
        for node in graph
        if node.op is not None and node.op.name == desc.name and node.name not in ("gelu", "gelu_1")
    ]
    return found


@pytest.mark.parametrize(
    ("path", "desc"), [(path, desc) for desc in TABLE for path in desc.functions if resolve(path) is not F.gelu]
)
def test_function(path: str, desc: OpDesc) -> None:
    def forward(self: Any, x: Tensor, y: Tensor) -> Any:
        kernel = self.kernel if desc.image_axes == 2 else self.kernel[..., 0]
        weights = (kernel if "conv" in desc.name else self.weight,) if desc.has_weight else ()
        weights = (self.table[0], self.table[1]) if desc.role is Role.BATCH_NORM else weights
        return resolve(path)(*call_arguments(desc, F.gelu(x), F.gelu(y)), *weights)

    found = only_op(graph_of(forward, kernel=nn.Parameter(torch.randn(4, 4, 1, 1))), desc)
    assert found.type == RECORDED.get(path, path)
    assert found.unquantizable is None
    assert producers(found) == expected_inputs(desc)
    assert [edge.element for edge in found.edges] == ([0, 1] if desc.name in LISTS else [None] * len(found.edges))


@pytest.mark.parametrize(("name", "desc"), [(name, desc) for desc in TABLE for name in desc.methods])
def test_method(name: str, desc: OpDesc) -> None:
    def forward(self: Any, x: Tensor, y: Tensor) -> Any:
        first, *others = call_arguments(desc, F.gelu(x), F.gelu(y))
        return getattr(first, name)(*others)

    found = only_op(graph_of(forward), desc)
    assert (found.type, found.form) == (name, Form.METHOD)
    assert found.unquantizable is None
    assert producers(found) == expected_inputs(desc)
    assert [edge.position for edge in found.edges] == list(range(len(found.edges)))


@pytest.mark.parametrize(("path", "desc"), [(path, desc) for desc in TABLE for path in desc.modules])
@pytest.mark.parametrize("is_keyword", [False, True])
def test_module(path: str, desc: OpDesc, is_keyword: bool) -> None:
    cls = resolve(path)
    make = MODULES.get(cls.__name__, lambda: cls(*ARGUMENTS.get(cls.__name__, ())))
    keyword = "x" if path.startswith("hotwheels") or cls is nn.RMSNorm else "input"
    is_warp = cls in (amct_nn.Warp, amct_nn.GlobalWarp)

    def forward(self: Any, x: Tensor, y: Tensor) -> Any:
        extra = {"grid": y} if is_warp else {}
        x = torch.abs(x)
        return self.layer(**{keyword: x}, **extra) if is_keyword else self.layer(x, **extra)

    found = graph_of(forward, layer=make())["layer"]
    assert found.op is not None
    assert found.op.name == desc.name
    assert (found.type, found.form, found.module_path) == (path, Form.MODULE, "layer")
    assert found.unquantizable is None
    assert [(edge.producer, edge.argument) for edge in found.edges] == [("abs_1", keyword)]


def test_gelu_function() -> None:
    found = graph_of(lambda self, x: F.gelu(x))["gelu"]
    assert found.type == "torch.nn.functional.gelu"
    assert producers(found) == ["x"]


def test_keyword_calls() -> None:
    def forward(self: Any, x: Tensor, y: Tensor) -> Any:
        x = torch.matmul(input=x, other=y)
        return torch.cat(tensors=[x, x.add(other=y)], dim=1)

    graph = graph_of(forward)
    assert [edge.argument for edge in graph["matmul"].edges] == ["input", "other"]
    assert [(edge.producer, edge.argument) for edge in graph["add"].edges] == [("matmul", "input"), ("y", "other")]
    assert [(edge.producer, edge.element) for edge in graph["cat"].edges] == [("matmul", 0), ("add", 1)]


def test_module_called_twice_is_two_layers() -> None:
    graph = graph_of(lambda self, x: self.linear(self.linear(x)))
    assert quantizable(graph) == ["linear", "linear_1"]
    assert {node.module_path for node in graph.quantizable} == {"linear"}


def test_sum_of_a_python_list_is_additions() -> None:
    graph = graph_of(lambda self, x: sum([x, x * 2]))
    assert [(name, producers(graph[name])) for name in ("add", "add_1")] == [("add", ["x"]), ("add_1", ["add", "mul"])]


# --- what is no float tensor ---


def arithmetic_of_sizes(self: Any, x: Tensor) -> Any:
    b, c = x.size()[:2]
    n = x.shape[2] * x.shape[3] // 2
    x = x.view(x.size()[:2] + (n * 2,))
    return x * (c**-0.5), torch.sum(x) / x.numel(), (b + x.dim()) / 2, abs(-n)


def test_arithmetic_of_sizes_is_not_quantized() -> None:
    graph = graph_of(arithmetic_of_sizes)
    assert quantizable(graph) == ["view", "mul_2", "sum_1", "truediv"]
    assert producers(graph["mul_2"]) == ["view"]
    assert {skip.name for skip in graph.skips} == {"mul", "add", "mul_1", "pow_1", "add_1", "truediv_1", "abs_1"}
    assert all("derived from sizes" in skip.reason for skip in graph.skips)


def test_integers_and_masks_are_not_quantized() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        mask = (x > 0).unsqueeze(1) + x.long()
        return x + mask.float(), x.masked_fill(mask * 1, 0.0) * (1.0 - mask)

    graph = graph_of(forward)
    assert producers(graph["add_1"]) == ["x", "float_1"]
    assert "integer" in str(graph["unsqueeze"].unquantizable)
    assert "integer" in str(graph["add"].unquantizable)
    assert producers(graph["mul_1"]) == ["masked_fill", "sub"]


def test_constants_have_no_edge() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        bias = (self.weight * 2)[:, : x.size(1)].permute(1, 0)
        x = torch.cat([self.table.repeat(2, 1), x]) + bias
        return self.linear(self.weight), self.table + x

    graph = graph_of(forward)
    assert [(edge.producer, edge.element) for edge in graph["cat"].edges] == [("x", 1)]
    assert producers(graph["add"]) == ["cat"]
    assert [(edge.producer, edge.position) for edge in graph["add_1"].edges] == [("add", 1)]
    assert [skip.name for skip in graph.skips] == ["mul", "permute", "linear"]
    assert all("constants only" in skip.reason for skip in graph.skips)


@pytest.mark.parametrize("spell", [torch.matmul, operator.matmul, lambda x, y: x.matmul(y)])
def test_matmul_with_a_buffer_is_off_by_default(spell: Callable[..., Any]) -> None:
    graph = graph_of(lambda self, x: (spell(x, self.weight), spell(self.table, x), spell(x, x)))
    assert [(node.name, node.is_default_enabled) for node in graph.quantizable] == [
        ("matmul", True),
        ("matmul_1", False),
        ("matmul_2", True),
    ]
    assert [edge.is_constant for edge in graph["matmul_1"].edges] == [True, False]
    assert str(graph["matmul"].op and graph["matmul"].op.name) == "linear"


def test_data_of_a_tensor_is_a_tensor() -> None:
    assert quantizable(graph_of(lambda self, x: self.conv(x.data))) == ["conv"]


def test_result_of_a_user_function_counts_as_tensor() -> None:
    graph = graph_of(lambda self, x: user_function(x.shape) + user_function(x))
    assert producers(graph["add"]) == ["user_function", "user_function_1"]
    assert graph["user_function"].op is None


def test_list_of_unknown_length_is_not_quantized() -> None:
    graph = graph_of(lambda self, x: torch.cat(x.chunk(2), 1))
    assert "not known before" in str(graph["cat"].unquantizable)


def test_parts_of_a_split_are_tensors() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        a, b = x.split(2, 1)
        return torch.cat([a, b], 1)

    graph = graph_of(forward)
    assert producers(graph["cat"]) == ["getitem", "getitem_1"]
    assert graph["split"].is_quantizable


# --- max and min ---


@dataclasses.dataclass(frozen=True)
class Reduction:
    spell: Callable[[Tensor, Tensor], Any]
    edges: list[str]


@pytest.mark.parametrize(
    "case",
    [
        Reduction(lambda x, y: torch.max(x, 1, True), ["x"]),
        Reduction(lambda x, y: torch.max(x, dim=1, keepdim=True), ["x"]),
        Reduction(lambda x, y: x.max(1, keepdim=True)[0], ["x"]),
        Reduction(lambda x, y: x.max(1)[0], []),
        Reduction(lambda x, y: torch.max(x), []),
        Reduction(lambda x, y: torch.max(x, 1, keepdim=False), []),
        Reduction(lambda x, y: torch.max(x, y), ["x", "y"]),
        Reduction(lambda x, y: x.max(other=y), ["x", "y"]),
    ],
)
def test_max_needs_keepdim_or_two_tensors(case: Reduction) -> None:
    assert producers(graph_of(lambda self, x, y: case.spell(x, y))["max_1"]) == case.edges


def test_min_has_no_such_condition() -> None:
    graph = graph_of(lambda self, x, y: (torch.min(x), x.min(1)[0], torch.min(x, y)))
    assert quantizable(graph) == ["min_1", "min_2", "min_3"]


# --- shape operations ---


@dataclasses.dataclass(frozen=True)
class Shapes:
    forward: Callable[..., Any]
    layers: list[str]


SHAPES = {
    "alone": Shapes(lambda self, x: x.view(2, -1), []),
    "chain_alone": Shapes(lambda self, x: x.view(2, -1).unsqueeze(1).flatten(1), []),
    "behind_an_unknown": Shapes(lambda self, x: x.sqrt().view(2, -1).erf(), []),
    "behind_a_layer": Shapes(lambda self, x: self.conv(x).flatten(1), ["conv", "flatten"]),
    "in_front_of_a_layer": Shapes(lambda self, x: self.linear(x.reshape(2, -1)), ["reshape", "linear"]),
    "chain_between": Shapes(lambda self, x: self.conv(x).flatten(2).squeeze(1).sqrt(), ["conv", "flatten", "squeeze"]),
    "behind_a_fused_activation": Shapes(lambda self, x: self.conv(x).relu().flatten(1), ["conv", "flatten"]),
    "behind_a_part": Shapes(lambda self, x: x.split(1)[0].view(-1), ["split", "view"]),
    "used_as_an_index": Shapes(lambda self, x: self.table[x.view(-1)], []),
    "sizes": Shapes(lambda self, x: torch.abs(x).view(x.shape[0], -1), ["abs_1", "view"]),
}


@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES)
def test_shape_operation_needs_a_quantizable_neighbour(case: Shapes) -> None:
    assert quantizable(graph_of(case.forward)) == case.layers


# --- activations behind a convolution ---

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu_": F.relu_,
    "torch_relu": torch.relu,
    "method": lambda x: x.relu_(),
    "relu6": F.relu6,
    "sigmoid": F.sigmoid,
    "tanh": torch.tanh,
    "leaky_relu": F.leaky_relu,
    "prelu": lambda x: F.prelu(x, torch.ones(1)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_activation_belongs_to_the_convolution(activation: Callable[[Tensor], Tensor]) -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return activation(self.conv(x)), activation(self.up(x)), activation(self.norm(self.conv2(x))), activation(x)

    graph = graph_of(forward, up=nn.ConvTranspose2d(3, 4, 1), conv2=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4))
    layers = quantizable(graph)
    assert layers[:3] == ["conv", "up", "conv2"]
    assert len(layers) == 4
    assert {skip.reason.split("'")[1] for skip in graph.skips} == {"conv", "up", "conv2"}


@pytest.mark.parametrize("cls", [nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.PReLU])
def test_activation_module_belongs_to_the_convolution(cls: type[nn.Module]) -> None:
    graph = graph_of(lambda self, x: (self.act(self.conv(x)), self.act2(self.linear(x))), act=cls(), act2=cls())
    assert quantizable(graph) == ["conv", "linear", "act2"]


def test_other_activations_are_layers_behind_a_convolution() -> None:
    graph = graph_of(lambda self, x: F.silu(self.conv(x)))
    assert quantizable(graph) == ["conv", "silu"]


# --- BatchNorm ---


def conv_and_norm(**options: Any) -> dict[str, nn.Module]:
    return {"conv2": nn.Conv2d(3, 4, 1), "norm": nn.BatchNorm2d(4, **options)}


def folded(forward: Callable[..., Any], **members: Any) -> bool:
    node = graph_of(forward, **members)["norm"]
    assert node.is_quantizable is not node.is_fold_target
    return node.is_fold_target


def in_a_row(self: Any, x: Tensor) -> Any:
    return self.norm(self.conv2(x))


def test_batch_norm_is_folded_into_its_convolution() -> None:
    assert folded(in_a_row, **conv_and_norm())
    assert folded(in_a_row, conv2=nn.Conv2d(3, 4, 1, bias=False), norm=nn.SyncBatchNorm(4))


def test_batch_norm_is_folded_into_a_transposed_convolution() -> None:
    assert folded(in_a_row, conv2=nn.ConvTranspose2d(3, 4, 1), norm=nn.BatchNorm2d(4))


def test_batch_norm_is_not_folded_if_the_convolution_is_shared() -> None:
    assert not folded(lambda self, x: (self.norm(self.conv2(x)), self.conv2(x)), **conv_and_norm())


def test_batch_norm_is_not_folded_if_the_convolution_has_other_consumers() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = self.conv2(x)
        return self.norm(y) + y

    assert not folded(forward, **conv_and_norm())


def test_batch_norm_needs_statistics_only_to_be_folded() -> None:
    assert folded(in_a_row, **conv_and_norm(affine=False))
    assert not folded(in_a_row, **conv_and_norm(track_running_stats=False))


def test_batch_norm_behind_other_padding_is_folded() -> None:
    assert folded(in_a_row, conv2=nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), norm=nn.BatchNorm2d(4))


def test_batch_norm_with_infinite_factor_is_not_folded() -> None:
    members = conv_and_norm()
    members["norm"].weight.data[1] = float("inf")  # type: ignore[index,union-attr]
    assert not folded(in_a_row, **members)


# --- extensions ---


def test_every_tensor_of_an_extension_is_an_input() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = self.add(self.conv(x), x)
        return self.cat([x, y]), self.cat(x, y, y)

    graph = graph_of(forward, Registry(), add=EltwiseAdd(), cat=Cat(1))
    assert quantizable(graph) == ["conv", "add", "cat", "cat_1"]
    assert producers(graph["add"]) == ["conv", "x"]
    assert [(edge.producer, edge.position, edge.element) for edge in graph["cat"].edges] == [("x", 0, 0), ("add", 0, 1)]
    assert [edge.position for edge in graph["cat_1"].edges] == [0, 1, 2]


# --- in-place operations ---


def test_graph_after_functionalize_has_the_same_layers_and_types() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = F.relu_(x.add_(1))
        return operator.add(y, x), F.elu(x, inplace=True)

    module = trace(type("Net", (Model,), {"forward": forward})(), REGISTRY.leaf_packages)
    before = build_graph(module, REGISTRY)
    functionalize(module)
    after = build_graph(module, REGISTRY)
    assert [(one.name, one.type, one.form) for one in after] == [(one.name, one.type, one.form) for one in before]
    assert [after[name].type for name in ("add_", "relu_")] == ["add_", "torch.nn.functional.relu_"]
    assert producers(before["add"]) == ["relu_", "x"]
    assert producers(after["add"]) == ["relu_", "relu_"]
    assert producers(after["elu"]) == ["relu_"]


def test_in_place_operator_of_a_graph_made_by_hand() -> None:
    graph = torch.fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    graph.output(graph.call_function(operator.iadd, (x, y)))
    module = torch.fx.GraphModule(nn.Module(), graph)
    functionalize(module)
    found = build_graph(module, REGISTRY)["iadd"]
    assert (found.type, producers(found)) == ("operator.iadd", ["x", "y"])


def test_operation_that_stays_in_place_is_not_quantizable() -> None:
    class Net(Model):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: Tensor) -> Any:
            return self.count.add_(1) + x.mean()

    module = trace(Net(), REGISTRY.leaf_packages)
    functionalize(module)
    assert "the parameter or buffer 'count'" in str(build_graph(module, REGISTRY)["add_"].unquantizable)


def test_function_with_a_weight_of_the_data_says_why_it_stays_in_float() -> None:
    graph = graph_of(lambda self, x: F.linear(F.conv2d(x, x.mean((0, 2, 3), keepdim=True)), x))
    reasons = {skip.name: skip.reason for skip in graph.skips}
    reason = "its weight is computed from the data, so it is no weight that a file could hold"
    assert (reasons["conv2d"], reasons["linear"]) == (reason, reason)


def test_normalization_as_a_function_says_why_it_stays_in_float() -> None:
    graph = graph_of(lambda self, x: F.layer_norm(F.batch_norm(self.conv(x), None, None, training=True), (4,)))
    reasons = {skip.name: skip.reason for skip in graph.skips}
    assert reasons["batch_norm"] == "it normalizes with the statistics of the batch in evaluation, too"
    reason = "it is a normalization called as a function; HiSilicon's AMCT manual lists nn.LayerNorm only"
    assert reasons["layer_norm"] == reason


def test_softmax_of_masked_scores_is_float() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.conv(x)
        blocked = y.masked_fill(y > 0, float("-inf"))
        return torch.softmax(blocked, -1) + F.softmax(y.masked_fill(y > 0, value=-1.0), dim=-1)

    graph = graph_of(forward)
    assert str(graph["softmax"].unquantizable).startswith("a mask has put -inf")
    assert graph["softmax_1"].is_quantizable
