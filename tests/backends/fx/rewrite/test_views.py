"""Changes in place of views: the graph computes without them what eager computes, for every way to make a view."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.fx.rewrite.functionalize import functionalize
from hotwheels.amct_pytorch.backends.fx.trace.capture import trace
from hotwheels.amct_pytorch.ops.registry import Registry
from tests.support.whole_way import PATHS, take

LEAVES = Registry().leaf_packages
Change = Callable[[Any, Tensor], Any]


class Model(nn.Module):
    """A convolution, whose result is changed in a view, and readers of both."""

    change: Change

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.relu, self.flat, self.parted = nn.ReLU(inplace=True), nn.Flatten(2), nn.Unflatten(1, (2, 4))
        self.same = nn.Sequential(nn.Identity(), nn.Dropout())

    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        seen = type(self).change(self, y)
        return self.last(y), seen, y.sum(1)


def model_of(change: Change) -> nn.Module:
    return type("Net", (Model,), {"change": change})().eval()


def image(count: int) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(count))


def run(module: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        result = torch.utils._pytree.tree_leaves(module(x.clone()))
    return [one.clone() for one in result if isinstance(one, Tensor)]


def overlapping(self: Any, y: Tensor) -> Any:
    first, second = y[:, :3], y[:, 2:5]
    first += 1
    return second


def two_cuts(self: Any, y: Tensor) -> Any:
    half, quarter = y.chunk(2, 1)[0], y.chunk(4, 1)[0]
    half += 1
    return quarter


def view_of_a_view(self: Any, y: Tensor) -> Any:
    t = y.permute(0, 2, 3, 1)
    v = t[..., 2:]
    v *= 2
    t -= 1
    return v, t


def loop(self: Any, y: Tensor) -> Any:
    for number, part in enumerate(y.unbind(1)):
        part.mul_(number)
    for part in y.chunk(4, 1):
        part.add_(0.1)


def parts_taken_later(self: Any, y: Tensor) -> Any:
    parts = y.split([3, 5], 1)
    y.mul_(2)
    return parts[1] + 1


def read_of_an_expanded_tensor(self: Any, y: Tensor) -> Any:
    mean = y.mean((2, 3), keepdim=True)
    everywhere = mean.expand(-1, -1, 6, 6)
    mean.mul_(2)
    return everywhere


def assigned(self: Any, y: Tensor) -> Any:
    rows = y.transpose(1, 3)
    rows[:, 0] = 0.5
    rows[..., [1, -1]] *= 3
    rows[:, ::2, 1:] = rows[:, ::2, 1:] + 1
    return rows


# Without an example too: these calls always make views.
CHANGES: dict[str, Change] = {
    "range": lambda self, y: y[:, 1:4].mul_(2),
    "number": lambda self, y: y[:, 0].add_(1),
    "last_number": lambda self, y: y[..., -1].add_(1),
    "step": lambda self, y: y[:, ::2].zero_(),
    "new_axis": lambda self, y: y[..., None, 2:-1].neg_(),
    "view": lambda self, y: y.view(y.shape[0], -1).add_(1),
    "unflatten": lambda self, y: y.unflatten(1, (2, 4))[:, 0].mul_(2),
    "permute": lambda self, y: y.permute(0, 2, 3, 1).add_(torch.arange(8.0)),
    "movedim": lambda self, y: y.movedim(1, -1).clamp_(-1, 1),
    "transpose": lambda self, y: torch.transpose(y, 1, 3).sigmoid_(),
    "matrix": lambda self, y: y.mT.mul_(2),
    "unsqueeze": lambda self, y: y.unsqueeze(1).clamp_(-1, 1),
    "squeeze": lambda self, y: y[:, :1].squeeze(1).mul_(3),
    "narrow": lambda self, y: y.narrow(1, -3, 2).relu_(),
    "select": lambda self, y: y.select(1, 3).copy_(y[:, 1]),
    "chunk": lambda self, y: y.chunk(2, 1)[0].mul_(2),
    "split": lambda self, y: torch.split(y, [3, 5], dim=1)[1].sigmoid_(),
    "unbind": lambda self, y: y.unbind(1)[2].mul_(3),
    "tensor_split": lambda self, y: y.tensor_split(3, 1)[2].add_(1),
    "diagonal": lambda self, y: y.diagonal(dim1=2, dim2=3).fill_(1.0),
    "data": lambda self, y: y.data.mul_(0.9),
    "detach": lambda self, y: y.detach().add_(1),
    "function": lambda self, y: F.relu(y[:, :4], inplace=True),
    "module": lambda self, y: self.relu(y[:, :4]),
    "masked": lambda self, y: y[:, 2:5].masked_fill_(y[:, 2:5] < 0, 0.5),
    "overlapping": overlapping,
    "two_cuts": two_cuts,
    "view_of_a_view": view_of_a_view,
    "loop": loop,
    "parts_taken_later": parts_taken_later,
    "read_of_an_expanded_tensor": read_of_an_expanded_tensor,
    "assigned": assigned,
}
# Views or copies, which only the example tells.
WITH_EXAMPLE: dict[str, Change] = {
    "flatten": lambda self, y: y.flatten(2).mul_(2),
    "copying_reshape": lambda self, y: y.permute(0, 2, 3, 1).reshape(-1).add_(1),
    "float": lambda self, y: y.float().contiguous().add_(1),
    "flatten_module": lambda self, y: self.flat(y).mul_(2),
    "unflatten_module": lambda self, y: self.parted(y)[:, 1].mul_(2),
    "identity": lambda self, y: self.same(y).mul_(2),
    "first_sample": lambda self, y: y.flatten(1)[:, 0].mul_(2),
}


@pytest.mark.parametrize("change", {**CHANGES, **WITH_EXAMPLE}.values(), ids={**CHANGES, **WITH_EXAMPLE})
def test_readers_of_every_name_see_the_change(change: Change) -> None:
    assert_follows(change, (image(2),))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_readers_see_it_without_an_example(change: Change) -> None:
    if change is not loop:  # an unbind that is iterated needs the example
        assert_follows(change, None)


def assert_follows(change: Change, example: tuple[Tensor, ...] | None) -> None:
    model = model_of(change)
    graph = trace(copy.deepcopy(model), LEAVES, inputs=example)
    names = [node.name for node in graph.graph.nodes]
    functionalize(graph)
    graph.graph.lint()
    graph.recompile()
    assert [node.name for node in graph.graph.nodes if node.name in names] == names
    assert not changes_memory(graph)
    for count in (2, 3):
        for one, other in zip(run(graph, image(count)), run(model, image(count)), strict=True):
            assert torch.equal(one, other)


def changes_memory(graph: torch.fx.GraphModule) -> bool:
    """The slow way: whether a node writes to the storage of one of its operands."""
    found = []

    class Watch(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            given = [value for value in map(self.env.get, n.all_input_nodes) if isinstance(value, Tensor)]
            versions = [value._version for value in given]
            result = super().run_node(n)
            found.append(any(value._version != old for value, old in zip(given, versions, strict=True)))
            return result

    with torch.no_grad():
        Watch(graph).run(image(2))
    return any(found)


def test_change_of_detached_values_has_no_gradient() -> None:
    model = model_of(CHANGES["data"])
    graph = trace(copy.deepcopy(model), LEAVES, inputs=(image(2),))
    functionalize(graph)
    graph.recompile()
    for module in (model, graph):
        module(image(2))[0].sum().backward()
    torch.testing.assert_close(graph.get_submodule("first").weight.grad, model.first.weight.grad)


def everything(self: Any, y: Tensor) -> Any:
    loop(self, y)
    assigned(self, y)
    y.view(y.shape[0], 2, 4, 6, 6)[:, 1, 2:].zero_()
    y.data.mul_(0.9)
    return overlapping(self, y), view_of_a_view(self, y)


@pytest.mark.parametrize("path", PATHS[1:])
def test_files_of_both_paths_have_the_changes(path: str, tmp_path: Path) -> None:
    take(model_of(everything), [(image(2),), (image(3),)], path, tmp_path, {"x": {0: "n"}})


@pytest.mark.parametrize("path", PATHS)
def test_files_of_every_path_have_assignments_to_lists(path: str, tmp_path: Path) -> None:
    def corners(self: Any, y: Tensor) -> Any:
        boxes = y.flatten(2).transpose(1, 2)
        found = boxes.clone()
        found[..., 0] = boxes[..., 0] - boxes[..., 2] / 2
        found[..., [1, -1]] *= 8
        found[:, torch.tensor([0, 3])] = 0.5
        found[..., 2:4] = found[..., 2:4].sigmoid()
        return found

    take(model_of(corners), [(image(2),), (image(3),)], path, tmp_path, {"x": {0: "n"}})


def test_the_users_example_keeps_its_values(tmp_path: Path) -> None:
    model = model_of(lambda self, y: y)
    model.register_forward_pre_hook(lambda module, given: (given[0].mul_(2),))
    given, before = image(2), image(2)
    take(model, [(given,)], "dynamic", tmp_path)
    assert torch.equal(given, before)
