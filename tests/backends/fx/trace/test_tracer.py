from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import types
from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.fx.trace.capture import trace
from hotwheels.amct_pytorch.errors import UnsupportedModelError
from hotwheels.amct_pytorch.ops.registry import Registry

LEAVES = Registry().leaf_packages


class StockTracer(torch.fx.Tracer):
    """The tracer of HiSilicon's AMCT manual, word for word."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if m.__module__.startswith("torch.nn") and not isinstance(m, torch.nn.Sequential):
            return True
        return m.__module__.startswith("hotwheels.amct_pytorch.nn")


@torch.fx.wrap
def pair_of(x: Tensor, parts: list[Tensor], part: slice) -> tuple[Tensor, Tensor]:
    return x[part] + parts[0], parts[1]


@dataclasses.dataclass
class Output:
    hidden: Any
    last: Any = None


class Model(nn.Module):
    """A model with a bit of everything; subclasses write the forward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 1)
        self.layers = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True))])
        self.linear = nn.Linear(5, 5)
        self.scale = nn.Parameter(torch.randn(1, 4, 1, 1))
        self.unused = nn.Linear(2, 2)
        self.register_buffer("table", torch.randn(4, 6))
        self.register_buffer("mask", torch.randn(4, 1, 1), persistent=False)
        self.anchor = torch.randn(4, 1, 1)


Forward = Callable[..., Any]


def shapes(self: Any, x: Tensor) -> Any:
    x = self.conv(input=x)
    b, c, h, w = x.size()
    y = x.view(b, c, h * w).transpose(1, 2).reshape(x.shape[0], -1)
    return y, x.data.shape[1] * 2, x.view(x.size()[:2] + (h * w,)), x.max(1, keepdim=True)[0]


def lists(self: Any, x: Tensor) -> Any:
    features = [self.conv(x)]
    for layer in self.layers:
        features.append(layer(features[-1]))
    features[0] = features[0] + features.pop()
    a, b = torch.cat(features, 1).chunk(2, dim=1)
    return sum([a, b, abs(a) ** 2])


def constants(self: Any, x: Tensor) -> Any:
    x = self.conv(x) * self.scale + self.mask - self.anchor
    return x + self.table[:, :1, None] + self.scale.data.expand(x.shape[0], -1, -1, -1) + self.table[x.size(1) - 1, 0]


def wrapped(self: Any, x: Tensor) -> Any:
    x = self.conv(x)
    a, b = pair_of(x, [x, x.abs()], slice(0, x.size(0)))
    return a @ b.transpose(-1, -2) + torch.matmul(a, b.mT)


def outputs(self: Any, x: Tensor) -> Any:
    found = Output(hidden=self.conv(x))
    found.last = F.relu(found.hidden, inplace=True)
    x = found.last
    x += found.hidden
    x = F.relu(self.conv(x[:, :3])) if isinstance(found, Output) and not self.training else x
    return {"x": x / sqrt(2), "found": [x.sigmoid(), torch.pow(x, 2)]}


def drops(self: Any, x: Tensor) -> Any:
    return self.conv(F.dropout(x, 0.5, self.training)) + torch.dropout(x[:, :1], 0.5, self.training)


FORWARDS: list[Forward] = [shapes, lists, constants, wrapped, outputs, drops]


def model_of(forward: Forward, **members: Any) -> nn.Module:
    return type("Net", (Model,), {"forward": forward, **members})().eval()


def names(graph: torch.fx.Graph) -> list[tuple[str, str]]:
    return [(node.name, node.op) for node in graph.nodes]


def outputs_of(module: nn.Module, *args: Any) -> list[Any]:
    with torch.no_grad():
        return list(torch.utils._pytree.tree_flatten(module(*args))[0])


def assert_same(actual: list[Any], expected: list[Any]) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def image() -> Tensor:
    return torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda forward: forward.__name__)
def test_names_are_those_of_a_stock_trace(forward: Forward) -> None:
    model = model_of(forward)
    ours, stock = trace(model, LEAVES).graph, StockTracer().trace(copy.deepcopy(model))
    assert [name for name, _ in names(ours)] == [name for name, _ in names(stock)]


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda forward: forward.__name__)
def test_outputs_are_those_of_the_model(forward: Forward) -> None:
    model = model_of(forward)
    assert_same(outputs_of(trace(model, LEAVES), image()), outputs_of(model, image()))


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda forward: forward.__name__)
def test_copies_and_pickles_keep_names_and_outputs(forward: Forward) -> None:
    module = trace(model_of(forward), LEAVES)
    copies = [copy.deepcopy(module)]
    if forward is not wrapped:  # torch.fx finds wrapped functions again in importable modules only
        copies.append(pickle.loads(pickle.dumps(module)))
    for other in copies:
        assert [name for name, _ in names(other.graph)] == [name for name, _ in names(module.graph)]
        assert_same(outputs_of(other, image()), outputs_of(module, image()))


def test_nodes_know_the_line_they_come_from() -> None:
    graph = trace(model_of(lists), LEAVES).graph
    source, start = inspect.getsourcelines(lists)
    found = {node.name: node.stack_trace for node in graph.nodes if node.op not in ("placeholder", "output")}
    for name, line in (("conv", 1), ("layers_0", 3), ("layers_1_1", 3), ("add", 4), ("cat", 5), ("pow_1", 6)):
        expected = f'File "{__file__}", line {start + line}, in lists\n    {source[line].strip()}'
        assert found[name] == expected, name
    assert all(found.values())


def test_model_is_left_as_it_was() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        self.kept = self.linear.kept = self.conv(x) + torch.ones(1)
        return self.kept

    model = model_of(forward)
    before = {path: dict(vars(module)) for path, module in model.named_modules()}
    state = list(model.state_dict())
    trace(model, LEAVES)
    assert {path: dict(vars(module)) for path, module in model.named_modules()} == before
    assert list(model.state_dict()) == state
    assert model.training is False


def test_state_dict_is_a_superset_in_spite_of_unused_modules() -> None:
    model = model_of(constants)
    module = trace(model, LEAVES)
    assert set(model.state_dict()) <= set(module.state_dict())
    assert "anchor" in dict(module.named_buffers())
    assert "mask" in dict(module.named_buffers())
    assert "mask" not in module.state_dict()
    assert module.get_parameter("scale") is model.get_parameter("scale")


@pytest.mark.parametrize("is_training", [True, False])
def test_training_flag_is_that_of_the_model(is_training: bool) -> None:
    module = trace(model_of(lists).train(is_training), LEAVES)
    assert {one.training for one in module.modules()} == {is_training}


def test_placeholders_keep_defaults_and_order() -> None:
    def forward(self: Any, x: Tensor, y: Any = None, *, gain: float = 2.0) -> Any:
        return self.conv(x) * gain

    signature = inspect.signature(trace(model_of(forward), LEAVES).forward)
    assert list(signature.parameters) == ["x", "y", "gain"]
    assert signature.parameters["y"].default is None
    assert signature.parameters["gain"].default == 2.0


# --- leaves ---


class Opaque(nn.Module):
    amct_leaf = True

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() + 1


class Open(nn.Conv2d):
    amct_leaf = False
    __module__ = "torch.nn.modules.conv"


def nodes_of(child: nn.Module, **options: Any) -> list[tuple[str, str]]:
    model = nn.Module()
    model.child = child
    model.forward = types.MethodType(lambda self, x: self.child(x), model)  # type: ignore[method-assign]
    return names(trace(model, LEAVES, **options).graph)[1:-1]


def test_user_modules_and_sequentials_are_traced_through() -> None:
    assert nodes_of(nn.Sequential(nn.ReLU(), nn.ReLU())) == [("child_0", "call_module"), ("child_1", "call_module")]


def test_package_names_match_whole() -> None:
    cls = type("Near", (nn.Module,), {"forward": lambda self, x: x.relu(), "__module__": "torch.nnx"})
    assert nodes_of(cls()) == [("relu", "call_method")]


def test_class_attribute_makes_a_leaf() -> None:
    assert nodes_of(Opaque()) == [("child", "call_module")]


def test_class_attribute_opens_a_leaf() -> None:
    assert ("conv2d", "call_function") in nodes_of(Open(3, 3, 1))


def test_leaf_rule_of_the_registry() -> None:
    cls = type("Mine", (nn.Module,), {"forward": lambda self, x: x.relu()})
    assert nodes_of(cls(), is_leaf_type=lambda one: one is cls) == [("child", "call_module")]


def test_leaf_type_with_a_forward_of_its_own_is_traced_through() -> None:
    relu = nn.ReLU()
    relu.forward = lambda x: x.clamp(0)  # type: ignore[method-assign]
    assert nodes_of(relu) == [("clamp", "call_method")]


# --- forward and call in force ---


def test_bound_forward_on_the_root() -> None:
    model = model_of(shapes)
    model.forward = types.MethodType(lambda self, image, gain=3: self.conv(image) * gain, model)
    module = trace(model, LEAVES)
    assert [name for name, _ in names(module.graph)] == ["image", "gain", "conv", "mul", "output"]
    assert_same(outputs_of(module, image()), outputs_of(model, image()))


def test_plain_function_as_forward_of_the_root() -> None:
    model = model_of(shapes)
    model.forward = lambda image, *, gain=3: model.conv(image) * gain
    assert_same(outputs_of(trace(model, LEAVES), image()), outputs_of(model, image()))


@pytest.mark.parametrize("is_root", [True, False])
def test_overridden_call_that_calls_super(is_root: bool) -> None:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return nn.Module.__call__(self, *args, **kwargs) * 2

    def forward(self: Any, x: Tensor) -> Any:
        return self.conv(x)

    model = model_of(forward, __call__=call)
    if not is_root:
        model = nn.Sequential(model)
    assert_same(outputs_of(trace(model, LEAVES), image()), outputs_of(model, image()))


def test_tracing_state_is_true_while_tracing_only() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return x.relu() if torch._C._get_tracing_state() else x.sigmoid()

    before = torch._C._get_tracing_state
    assert ("relu", "call_method") in names(trace(model_of(forward), LEAVES).graph)
    assert torch._C._get_tracing_state is before


# --- what stock torch.fx cannot do ---


def test_buffers_are_sliced_and_broadcast_by_traced_sizes() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        x = self.conv(x)
        return x + self.table[: x.size(1), : x.size(3)][None, :, None], self.mask.expand(x.size(1), -1, x.shape[3])

    model = model_of(forward)
    module = trace(model, LEAVES)
    for other in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_same(outputs_of(other, image()), outputs_of(model, image()))


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("function", [F.dropout, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout])
def test_dropout_follows_the_mode(function: Callable[..., Tensor], is_training: bool) -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return function(x, 0.5, self.training)

    module = trace(model_of(forward).train(is_training), LEAVES)
    assert torch.equal(module.eval()(image()), image())
    assert not torch.equal(module.train()(image()), image())


@pytest.mark.parametrize("is_training", [True, False])
def test_dropout_of_the_c_library_is_off_in_eval(is_training: bool) -> None:
    # It takes a real bool, so that nobody knows whether False came from self.training.
    def forward(self: Any, x: Tensor) -> Any:
        return torch.dropout(x, 0.5, train=self.training)

    module = trace(model_of(forward).train(is_training), LEAVES)
    assert torch.equal(module.eval()(image()), image())


def test_dropout_that_is_off_by_a_constant_stays_off() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return F.dropout(x, 0.5, training=False)

    assert torch.equal(trace(model_of(forward).train(), LEAVES)(image()), image())


def test_dropout_that_is_always_on_is_off_in_eval() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return F.dropout(x)

    module = trace(model_of(forward), LEAVES)
    assert torch.equal(module.eval()(image()), image())
    assert not torch.equal(module.train()(image()), image())


# --- failures: HiSilicon's AMCT manual, chapter "Failures of fx.symbolic_trace" ---


def if_on_data(self: Any, x: Tensor) -> Any:
    if x.sum() > 0:
        return x.relu()
    return x


def assert_on_data(self: Any, x: Tensor) -> Any:
    assert x.shape[0] == 2
    return x


def python_function(self: Any, x: Tensor) -> Any:
    return x / sqrt(len(x))


def constructor(self: Any, x: Tensor) -> Any:
    return x + torch.zeros(x.shape[0], 1)


def dtype(self: Any, x: Tensor) -> Any:
    return torch.ones(2).type(x.data.type())


def iteration(self: Any, x: Tensor) -> Any:
    return [y + 1 for y in x]


def loop_over_size(self: Any, x: Tensor) -> Any:
    return [x + step for step in range(x.shape[0])]


def starred(self: Any, *args: Any) -> Any:
    return torch.add(*args)


def unregistered(self: Any, x: Tensor) -> Any:
    return nn.Conv2d(3, 3, 1)(x)


def python_number(self: Any, x: Tensor) -> Any:
    return x * float(x.mean())


def strange_object(self: Any, x: Tensor) -> Any:
    return pair_of(x, [x, object()], slice(0, 1))  # type: ignore[list-item]


@dataclasses.dataclass(frozen=True)
class Failure:
    forward: Forward
    original: str
    code: str
    advice: str


FAILURES = [
    Failure(if_on_data, "cannot be used as inputs to control flow", "if x.sum() > 0:", "dynamic path"),
    Failure(assert_on_data, "cannot be used as inputs to control flow", "assert x.shape[0] == 2", "Delete the assert"),
    Failure(python_function, "'len' is not supported in symbolic tracing", "sqrt(len(x))", "torch.fx.wrap("),
    Failure(constructor, "zeros()", "torch.zeros(x.shape[0], 1)", "Use a constant"),
    Failure(dtype, "dtype must be a type, str, or dtype object", ".type(x.data.type())", "@torch.fx.wrap"),
    Failure(iteration, "Proxy object cannot be iterated", "for y in x", "y0, y1 = x.chunk(2)"),
    Failure(loop_over_size, "cannot be interpreted as an integer", "range(x.shape[0])", "dynamic path"),
    Failure(starred, "Proxy object cannot be iterated", "torch.add(*args)", "*args and **kwargs"),
    Failure(unregistered, "not installed as a submodule", "nn.Conv2d(3, 3, 1)(x)", "nn.ModuleList"),
    Failure(python_number, "not 'TracedProxy'", "float(x.mean())", "dynamic path"),
    Failure(strange_object, "argument of type", "object()", "do not keep traced values"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.forward.__name__)
def test_failure_shows_reason_line_and_rewriting(failure: Failure) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        trace(model_of(failure.forward), LEAVES)
    text = str(caught.value)
    assert failure.original in text
    assert failure.code in text
    assert failure.advice in text
    assert "fx.symbolic_trace异常场景汇总" in text
    first = failure.forward.__code__.co_firstlineno
    lines = range(first, first + 4)
    assert any(f'File "{__file__}", line {line}, in {failure.forward.__name__}' in text for line in lines)


def test_failed_trace_leaves_the_model_as_it_was() -> None:
    model = model_of(if_on_data)
    with pytest.raises(UnsupportedModelError):
        trace(model, LEAVES)
    assert model.training is False
    assert type(model.conv.training) is bool


def test_wrapped_function_is_the_way_out() -> None:
    assert ("pair_of", "call_function") in names(trace(model_of(wrapped), LEAVES).graph)


class OnDevice(nn.Module):
    """Asks where its input is, as models do that leave autocast for a part, and makes a tensor there."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            x = x.half()
        if x.device.type != "meta":
            with torch.autocast(device_type=x.device.type, enabled=False):
                return x * 2 + torch.ones(1).to(x.device)
        return x


def test_device_of_a_traced_value_is_the_models() -> None:
    traced = trace(OnDevice(), LEAVES)
    names = [node.name for node in traced.graph.nodes]
    assert names == ["x", "mul", "_tensor_constant0", "getattr_1", "to", "add", "output"]
    x = torch.randn(3)
    assert torch.equal(traced(x), OnDevice()(x))
