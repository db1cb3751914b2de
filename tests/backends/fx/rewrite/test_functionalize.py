from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.fx.rewrite import functionalize as rewrite
from hotwheels.amct_pytorch.backends.fx.trace.capture import trace
from hotwheels.amct_pytorch.errors import UnsupportedModelError
from hotwheels.amct_pytorch.graph import Skip
from hotwheels.amct_pytorch.ops.registry import Registry

LEAVES = Registry().leaf_packages


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.register_buffer("count", torch.zeros(4, 1, 1))


def traced(forward: Callable[..., Any]) -> tuple[nn.Module, torch.fx.GraphModule]:
    model = type("Net", (Model,), {"forward": forward})().eval()
    return model, trace(copy.deepcopy(model), LEAVES)


def functionalize(module: torch.fx.GraphModule) -> tuple[Skip, ...]:
    """Rewrites ``module`` and generates its code anew, which the caller of all passes does."""
    skips = rewrite.functionalize(module)
    module.graph.lint()
    module.recompile()
    return skips


def image() -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def run(module: nn.Module) -> list[Tensor]:
    with torch.no_grad():
        return list(torch.utils._pytree.tree_flatten(module(image()))[0])


def is_in_place(module: torch.fx.GraphModule) -> bool:
    """The slow way: whether a call still writes to the storage of one of its inputs."""
    found = []

    class Watch(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            inputs = [value for value in (self.env.get(one) for one in n.all_input_nodes) if isinstance(value, Tensor)]
            versions = [value._version for value in inputs]
            result = super().run_node(n)
            found.append(any(value._version != old for value, old in zip(inputs, versions, strict=True)))
            return result

    with torch.no_grad():
        Watch(module).run(image())
    return any(found)


SPELLINGS: dict[str, Callable[[Any, Tensor], Any]] = {
    "module": lambda self, x: self.relu(x),
    "inplace_argument": lambda self, x: F.relu(x, inplace=True),
    "relu6_argument": lambda self, x: F.relu6(x, inplace=True),
    "hardswish_argument": lambda self, x: F.hardswish(x, inplace=True),
    "function": lambda self, x: F.relu_(x),
    "torch_function": lambda self, x: torch.abs_(x),
    "leaky_relu_": lambda self, x: F.leaky_relu_(x, 0.2),
    "elu_": lambda self, x: F.elu_(x, 0.5),
    "hardtanh_": lambda self, x: F.hardtanh_(x, -0.5, 0.5),
    "method": lambda self, x: x.add_(1),
    "clamp_": lambda self, x: x.clamp_(min=0),
    "masked_fill_": lambda self, x: x.masked_fill_(x > 0, 2.0),
    "zero_": lambda self, x: x.zero_(),
    "fill_": lambda self, x: x.fill_(2.5),
    "out": lambda self, x: torch.mul(x, 2, out=x),
    "squeeze_": lambda self, x: x.unsqueeze_(0).squeeze_(0),
}


@pytest.mark.parametrize("change", SPELLINGS.values(), ids=SPELLINGS)
def test_later_readers_of_the_value_see_the_result(change: Callable[[Any, Tensor], Any]) -> None:
    def forward(self: Any, x: Tensor) -> Any:
        before = self.conv(x)
        kept = before * 2
        after = change(self, before)
        return before + after, kept, before.sum()

    model, module = traced(forward)
    names = [node.name for node in module.graph.nodes]
    assert functionalize(module) == ()
    assert [node.name for node in module.graph.nodes] == names
    assert not is_in_place(module)
    for actual, expected in zip(run(module), run(model), strict=True):
        assert torch.equal(actual, expected)


def test_result_that_nobody_reads_still_counts() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = self.conv(x)
        self.relu(y)
        y.mul_(2)
        return y

    model, module = traced(forward)
    functionalize(module)
    assert not is_in_place(module)
    assert torch.equal(run(module)[0], run(model)[0])


@pytest.mark.parametrize(
    ("name", "expected"), [("iadd", [5.0]), ("isub", [1.0]), ("imul", [6.0]), ("itruediv", [1.5]), ("ipow", [9.0])]
)
def test_operators(name: str, expected: list[float]) -> None:
    # Made by hand, since a trace records x += y as x + y.
    graph = torch.fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    graph.call_function(getattr(operator, name), (x, y))
    graph.output(x)
    module = torch.fx.GraphModule(nn.Module(), graph)
    functionalize(module)
    given = torch.tensor([3.0])
    assert module(given, torch.tensor([2.0])).tolist() == expected
    assert given.tolist() == [3.0]


def test_module_of_the_model_is_not_changed() -> None:
    model = type("Net", (Model,), {"forward": lambda self, x: self.relu(self.conv(x))})()
    module = trace(model, LEAVES)
    functionalize(module)
    assert model.relu.inplace is True
    assert module.get_submodule("relu").inplace is False
    assert module.get_submodule("conv") is model.conv


def test_user_function_with_an_underscore_is_left_alone() -> None:
    _, module = traced(lambda self, x: guess_(self.conv(x)))
    assert functionalize(module) == ()
    assert "guess_" in module.code


@torch.fx.wrap
def guess_(x: Tensor) -> Tensor:
    return x


# --- what has to stay in place, or is refused ---


def view_read_later(self: Any, x: Tensor) -> Any:
    x = self.conv(x)
    flat = x.flatten(1)
    x.relu_()
    return flat


def base_behind_a_reshape(self: Any, x: Tensor) -> Any:
    x = self.conv(x)
    x.reshape(-1).add_(1)
    return x


def cast_that_may_be_none(self: Any, x: Tensor) -> Any:
    x = self.conv(x)
    y = x.float().transpose(1, 2)
    F.relu(y, inplace=True)
    return x


def strides_of_memory(self: Any, x: Tensor) -> Any:
    x = self.conv(x)
    self.relu(torch.as_strided(x, (4, 4), (4, 1)))
    return x + 1


def element_of_anything(self: Any, x: Tensor) -> Any:
    x = self.conv(x)
    x[0].mul_(2)
    return x


@dataclasses.dataclass(frozen=True)
class Obstacle:
    forward: Callable[..., Any]
    node: str
    shared: str


OBSTACLES = [
    Obstacle(view_read_later, "relu_", "flatten"),
    Obstacle(base_behind_a_reshape, "add_", "conv"),
    Obstacle(cast_that_may_be_none, "relu", "conv"),
    Obstacle(strides_of_memory, "relu", "conv"),
    Obstacle(element_of_anything, "mul_", "conv"),
]


@pytest.mark.parametrize("case", OBSTACLES, ids=lambda case: case.forward.__name__)
def test_memory_that_may_be_read_under_another_name_is_refused(case: Obstacle) -> None:
    _, module = traced(case.forward)
    expected = rf"(?s)'{case.node}' cannot .* changes '{case.shared}' in place, which may share .*pass input_data="
    with pytest.raises(UnsupportedModelError, match=expected):
        functionalize(module)


def test_operation_without_another_form_stays_in_place() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        noise = torch.empty_like(self.conv(x))
        noise.uniform_(2, 2 + 1e-6)
        return x.sum() + noise

    model, module = traced(forward)
    assert functionalize(module) == ()
    assert "uniform_" in module.code
    torch.testing.assert_close(run(module)[0], run(model)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("source", [torch.float32, torch.int64], ids=str)
def test_copy_takes_the_type_and_shape_of_what_it_overwrites(source: torch.dtype) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.copy_((x * 8).sum(1, keepdim=True).to(source))
        return y

    model, module = traced(forward)
    assert functionalize(module) == ()
    assert not is_in_place(module)
    assert torch.equal(run(module)[0], run(model)[0])
    assert run(module)[0].dtype == torch.float32


def test_buffer_stays_in_place() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        x = self.conv(x)
        return x, self.count.add_(x.mean())

    model, module = traced(forward)
    assert functionalize(module) == (Skip("add_", "it changes the parameter or buffer 'count' in place"),)
    run(module)
    run(model)
    assert torch.equal(module.get_buffer("count"), model.get_buffer("count"))


def test_parts_of_a_split_are_apart() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        first, second = self.conv(x).split(2, 1)
        return torch.cat([self.relu(first), second], 1)

    model, module = traced(forward)
    assert functionalize(module) == ()
    assert torch.equal(run(module)[0], run(model)[0])
