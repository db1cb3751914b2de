"""The graph of a guided trace computes the same as the model, for every batch size and in every call."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hotwheels.amct_pytorch.backends.fx.trace.capture import trace
from hotwheels.amct_pytorch.errors import UnsupportedModelError
from hotwheels.amct_pytorch.ops.registry import Registry

LEAVES = Registry().leaf_packages
Forward = Callable[..., Any]


class Net(nn.Module):
    """Something of each kind of state; subclasses write the forward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)
        self.register_buffer("table", torch.randn(1, 4))
        self.register_buffer("count", torch.zeros(()))
        self.cache: dict[Any, Any] = {}
        self.seen: list[Any] = []


def net(forward: Forward) -> nn.Module:
    return type("Model", (Net,), {"forward": forward})().eval()


def batch(size: int) -> Tensor:
    return torch.rand(size, 4, generator=torch.Generator().manual_seed(size))


def tensors(value: Any) -> list[Any]:
    return pytree.tree_leaves(value)


def assert_equal(actual: Any, expected: Any) -> None:
    assert len(tensors(actual)) == len(tensors(expected))
    for one, other in zip(tensors(actual), tensors(expected), strict=True):
        assert torch.equal(one, other) if isinstance(other, Tensor) else one == other


# --- what a stock trace cannot do, or does wrongly ---


def alias_by_name(self: Any, x: Tensor) -> Any:
    h = self.linear(x)
    y = h
    y *= 2
    return h + y


def constant_changed_after_use(self: Any, x: Tensor) -> Any:
    t = torch.zeros(4)
    y = self.linear(x) + t
    t += 1
    return y * (x + t)


def constant_written_by_the_graph(self: Any, x: Tensor) -> Any:
    m = torch.zeros(4)
    m[0] = x.mean()
    m[1:] += 2
    return self.linear(x) * m + m.sum()


def is_tensor(self: Any, x: Any) -> Any:
    return self.linear(x) * 2 if isinstance(x, Tensor) and not isinstance(x, (list, tuple)) else self.linear(x)


def has_attribute(self: Any, x: Any) -> Any:
    return self.linear(x) * (2 if hasattr(x, "tensors") else 1) + getattr(x, "offset", 3)


def length_in_try(self: Any, x: Tensor) -> Any:
    try:
        n = len(x)
    except TypeError:
        n = 1
    return self.linear(x) / n


def optional_argument(self: Any, x: Tensor, mask: Tensor | None = None, flip: bool = False) -> Any:
    h = self.linear(x)
    if flip:
        h = h.flip(-1)
    return h if mask is None else h * mask


def counted(self: Any, x: Tensor) -> Any:
    self.count += 1
    return self.linear(x) + self.count


def moving_average(self: Any, x: Tensor) -> Any:
    self.count.mul_(0.5).add_(x.mean())
    return self.linear(x) * self.count


def buffer_replaced(self: Any, x: Tensor) -> Any:
    self.count = self.count * 0.5 + x.mean()
    return self.linear(x) * self.count


def cached(self: Any, x: Tensor) -> Any:
    if x.shape[1] not in self.cache:
        self.cache[x.shape[1]] = self.linear.weight.abs()
    self.seen.append(x)
    return self.linear(x) @ self.cache[x.shape[1]]


def sizes(self: Any, x: Tensor) -> Any:
    b, c = x.shape
    z = self.table.expand(b, -1) + torch.zeros(b, 4) + torch.zeros((b, c), dtype=x.dtype, device=x.device)
    assert c % 2 == 0
    if x.dim() == 2 and x.is_floating_point() and x.device.type == "cpu":
        z = z + x.new_ones(b, c)
    z = z + torch.arange(c, device=x.device) + torch.full((c,), c).to(x.dtype) + torch.finfo(x.dtype).eps
    return self.linear(x) + z + x[:, : len(x.shape)].sum() * math.sqrt(x.shape[-1]) + round(x.shape[1] / 3)


def iterations(self: Any, x: Tensor) -> Any:
    parts = [part + index for index, part in enumerate(x.chunk(2, 1))]
    first, *others = x.split([1, 1, 2], 1)
    columns = [column for column in x.unbind(1)]
    return torch.cat(parts, 1), sum(columns), torch.cat([first, *others], 1), {key: x for key in "ab"}


def batch_as_int(self: Any, x: Tensor) -> Any:
    return x.reshape(int(x.shape[0]), -1) + int(x.shape[0] * 2) + torch.zeros(int(x.shape[0]), 4)


def numbers_from_buffers(self: Any, x: Tensor) -> Any:
    width = torch.tensor(x.shape)[1] * 2
    return x.repeat(1, 2).reshape(x.shape[0], width) * (1 if self.table.sum() > 100 else 2)


def memoized(self: Any, x: Tensor) -> Any:
    return x * factor(x.shape[1])


@functools.lru_cache
def factor(size: int) -> int:
    return size * 3


def parameter_list(self: Any, x: Tensor) -> Any:
    return x @ self.linear.weight[:, : x.shape[1]] * self.linear.weight.shape[0]


def text_keys(self: Any, x: Tensor) -> Any:
    sizes = {f"{x.shape[1]}": 1.5}
    return x * sizes[str(x.shape[1])]


def no_grad_parts(self: Any, x: Tensor) -> Any:
    with torch.no_grad():
        y = self.linear(x)
    return y.detach() + x


CAPTURED: list[Forward] = [
    *(alias_by_name, constant_changed_after_use, constant_written_by_the_graph, is_tensor, has_attribute),
    *(length_in_try, optional_argument, counted, moving_average, buffer_replaced, cached, sizes, iterations),
    *(batch_as_int, numbers_from_buffers, memoized, parameter_list, text_keys, no_grad_parts),
]


@pytest.mark.parametrize("forward", CAPTURED, ids=lambda forward: forward.__name__)
def test_graph_computes_what_the_model_computes(forward: Forward) -> None:
    model = net(forward)
    graph, eager = trace(model, LEAVES, inputs=(batch(2),)), copy.deepcopy(model)
    for size in (2, 5, 1):  # in turn, as the state of some changes with each call
        assert_equal(graph(batch(size)), eager(batch(size)))


@pytest.mark.parametrize("forward", CAPTURED, ids=lambda forward: forward.__name__)
def test_model_is_left_as_it_was(forward: Forward) -> None:
    model = net(forward)
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    trace(model, LEAVES, inputs=(batch(2),))
    assert_equal(model.state_dict(), state)
    assert not model.cache
    assert not model.seen
    assert type(model.training) is bool
    assert torch.equal(torch.get_rng_state(), random)
    assert isinstance(model(batch(2)), (Tensor, tuple))
    assert factor(4) == 12  # the library's cache contains no Proxy


@pytest.mark.parametrize("forward", CAPTURED, ids=lambda forward: forward.__name__)
def test_every_node_says_what_it_is(forward: Forward) -> None:
    graph = trace(net(forward), LEAVES, inputs=(batch(2),)).graph
    for node in graph.nodes:
        if node.op != "output" and not node.name.startswith("amct_check"):
            assert "val" in node.meta, node
    shapes = [node.meta["val"].shape for node in graph.nodes if node.name == "linear"]
    assert all(shape == (2, 4) for shape in shapes)


def test_random_numbers_are_drawn_in_every_run() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        noise = torch.randn(4)
        return x + noise + torch.rand_like(self.table)

    graph = trace(net(forward), LEAVES, inputs=(batch(2),))
    assert not torch.equal(graph(batch(2)), graph(batch(2)))


# --- refused ---


def branch_on_data(self: Any, x: Tensor) -> Any:
    return x if x.sum() > 0 else -x


def number_of_data(self: Any, x: Tensor) -> Any:
    return x * float(x.max())


def size_of_data(self: Any, x: Tensor) -> Any:
    return x[x[:, 0] > 0.5]


def branch_on_random(self: Any, x: Tensor) -> Any:
    return x if torch.rand(1) > 0.5 else -x


@pytest.mark.parametrize("forward", [branch_on_data, number_of_data, size_of_data, branch_on_random])
def test_what_depends_on_values_is_refused_with_the_line(forward: Forward) -> None:
    with pytest.raises(UnsupportedModelError, match="value of the data decides") as caught:
        trace(net(forward), LEAVES, inputs=(batch(2),))
    line = forward.__code__.co_firstlineno + 1
    assert f'File "{__file__}", line {line}, in {forward.__name__}' in str(caught.value)


def test_loop_over_the_samples_is_refused_with_the_line() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return torch.stack([self.linear(x[index]) for index in range(x.shape[0])])

    with pytest.raises(UnsupportedModelError, match="something else for each batch size") as caught:
        trace(net(forward), LEAVES, inputs=(batch(2),))
    assert "for index in range(x.shape[0])" in str(caught.value)


def test_error_of_the_models_own_is_shown() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        trace(net(lambda self, x: self.linear(x)), LEAVES, inputs=(torch.rand(2, 5),))
    assert any("Raised by the forward of layer 'linear'" in note for note in caught.value.__notes__)


def test_input_data_which_does_not_fit_the_forward() -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be called with this input_data"):
        trace(net(lambda self, x: self.linear(x)), LEAVES, inputs=(batch(2), batch(2)))


# --- what is frozen is checked ---


def test_size_read_as_a_number_is_checked_when_the_graph_runs() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return x.reshape(x.shape[0], int(x.shape[1]) // 2, 2)

    graph = trace(net(forward), LEAVES, inputs=(batch(2),))
    with pytest.raises(UnsupportedModelError, match=r"It was 4 when the model was traced and is 8 now"):
        graph(torch.rand(2, 8))


def test_argument_that_was_left_out_cannot_be_given() -> None:
    graph = trace(net(optional_argument), LEAVES, inputs=(batch(2),))
    with pytest.raises(UnsupportedModelError, match="argument 'mask' is fixed"):
        graph(batch(2), torch.ones(4))


def test_argument_that_was_given_stays_an_input() -> None:
    model = net(optional_argument)
    graph = trace(model, LEAVES, inputs=(batch(2), torch.ones(4)))
    assert_equal(graph(batch(3), torch.arange(4)), model(batch(3), torch.arange(4)))


def test_number_stays_an_input() -> None:
    model = net(lambda self, x, scale=1.0: self.linear(x) * scale)
    graph = trace(model, LEAVES, inputs=(batch(2), 2.0))
    assert_equal(graph(batch(2), 5.0), model(batch(2), 5.0))


def test_branch_on_a_number_that_is_an_input_is_checked() -> None:
    model = net(lambda self, x, scale=1.0: self.linear(x) if scale > 1 else x)
    graph = trace(model, LEAVES, inputs=(batch(2), 2.0))
    assert_equal(graph(batch(2), 5.0), model(batch(2), 5.0))
    with pytest.raises(UnsupportedModelError, match="was True when the model was traced and is False now"):
        graph(batch(2), 0.5)


# --- arguments ---


@dataclasses.dataclass(frozen=True)
class Call:
    name: str
    forward: Forward
    inputs: tuple[Any, ...]
    others: tuple[Any, ...]


CALLS = [
    Call(
        "variadic", lambda self, *xs: self.linear(torch.cat(xs)) + len(xs), (batch(2), batch(3)), (batch(4), batch(4))
    ),
    Call("variadic_index", lambda self, *xs: xs[0] - xs[1], (batch(2), batch(2)), (batch(5), batch(5))),
    Call("keywords", lambda self, x, *, mask=None: x if mask is None else x * mask, (batch(2), {"mask": batch(2)}), ()),
    Call("dict_argument", lambda self, x, more: x + more["a"], (batch(2), {"a": batch(2)}), ()),
    Call(
        "list_argument", lambda self, xs: self.linear(xs[0]) + xs[1], ([batch(2), batch(2)],), ([batch(4), batch(4)],)
    ),
    Call("dict_loop", lambda self, d: sum(v for v in d.values()), ({"a": batch(2), "b": batch(2)},), ()),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_every_way_of_giving_arguments(call: Call) -> None:
    model = net(call.forward)
    graph = trace(model, LEAVES, inputs=call.inputs)
    for inputs in (call.inputs, call.others or call.inputs):
        args, kwargs = (inputs[:-1], inputs[-1]) if call.name == "keywords" else (inputs, {})
        assert_equal(graph(*args, **kwargs), model(*args, **kwargs))


class Reused(nn.Module):
    """A wrapped function with a branch on data; an autograd function; functions in a list."""

    def forward(self, x: Tensor) -> Tensor:
        return Doubled.apply(clipped(x)) + sum(function(x) for function in (F.relu, torch.abs))


@torch.fx.wrap
def clipped(x: Tensor) -> Tensor:
    return x * 2 if x.max() > 0.99 else x


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * 2


def test_opaque_functions_are_calls() -> None:
    graph = trace(Reused(), LEAVES, inputs=(batch(2),))
    for x in (batch(3), batch(3) + 1):
        assert_equal(graph(x), Reused()(x))
    copied = copy.deepcopy(graph)
    assert_equal(copied(batch(3)), Reused()(batch(3)))


def test_torchs_table_of_names_is_not_made_of_what_a_trace_patches() -> None:
    for table in (torch.overrides._get_overridable_functions, torch.overrides._get_tensor_methods):
        table.cache_clear()
    trace(net(lambda self, x: torch.add(x, self.table)), LEAVES, inputs=(torch.ones(2, 4),))
    assert torch.overrides.resolve_name(Tensor.sum) == "torch.Tensor.sum"


def with_defaults(forward: Forward) -> Forward:
    """A decorator as libraries of models have it: it takes anything and looks into its keyword arguments."""

    @functools.wraps(forward)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("return_dict", None)
        return forward(self, *args, **kwargs)

    return wrapper


@pytest.mark.parametrize("is_guided", (True, False))
def test_decorated_forward_is_called_as_it_is(is_guided: bool) -> None:
    def forward(self: Any, x: Tensor, scale: float | None = None, **kwargs: Any) -> Tensor:
        return self.linear(x if scale is None else x * scale)

    model = net(with_defaults(forward))
    graph = trace(model, LEAVES, inputs=(batch(2),) if is_guided else None)
    assert torch.equal(graph(batch(3)), model(batch(3)))
