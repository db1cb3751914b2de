"""Modules, functions and contexts that a forward calls without owning them are traced as they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hotwheels.amct_pytorch.backends.fx.trace.capture import trace
from hotwheels.amct_pytorch.errors import UnsupportedModelError
from hotwheels.amct_pytorch.ops.registry import Registry

LEAVES = Registry().leaf_packages
Forward = Callable[..., Any]


class Net(nn.Module):
    """Subclasses write the forward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.kept = [nn.ReLU(), nn.Conv2d(4, 4, 1)]
        self.by_name = {"act": nn.Hardswish()}
        self.shape: Any = None
        self.grid = torch.zeros(0)


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return x * torch.tanh(F.softplus(x))


def slices(self: Any, x: Tensor) -> Tensor:
    return self.parts[3:](self.parts[:3](x))


def modules_in_a_list_or_dict(self: Any, x: Tensor) -> Tensor:
    return self.by_name["act"](self.kept[1](self.kept[0](self.parts(x))))


def modules_made_in_the_forward(self: Any, x: Tensor) -> Tensor:
    return nn.Sequential(nn.MaxPool2d(2), nn.Softmax(dim=1))(nn.ReLU()(self.parts(x)))


def checkpoint_that_repeats(self: Any, x: Tensor) -> Tensor:
    return checkpoint(lambda y: self.parts(y).relu(), x, use_reentrant=False)


def checkpoint_as_a_function(self: Any, x: Tensor) -> Tensor:
    return checkpoint(self.parts, x, use_reentrant=True)


def function_of_torch_jit(self: Any, x: Tensor) -> Tensor:
    return scripted(self.parts(x))


def inference_mode_inside(self: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        mean = self.parts(x).mean()
    return self.parts(x) - mean


def factor_computed_again(self: Any, x: Tensor) -> Tensor:
    return F.interpolate(self.parts(x), scale_factor=1.3, mode="bilinear", recompute_scale_factor=True)


def older_spelling_of_a_type(self: Any, x: Tensor) -> Tensor:
    return self.parts(x).round().type(torch.IntTensor).type(torch.FloatTensor)


FORWARDS = [
    slices,
    modules_in_a_list_or_dict,
    modules_made_in_the_forward,
    checkpoint_that_repeats,
    checkpoint_as_a_function,
    function_of_torch_jit,
    inference_mode_inside,
    factor_computed_again,
    older_spelling_of_a_type,
]


def net(forward: Forward) -> nn.Module:
    return type("Model", (Net,), {"forward": forward})().eval()


def image(size: int) -> Tensor:
    return torch.randn(size, 3, 6, 6, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize("has_example", [False, True], ids=["stock", "guided"])
@pytest.mark.parametrize("forward", FORWARDS, ids=lambda one: one.__name__)
def test_graph_computes_what_the_model_computes(forward: Forward, has_example: bool) -> None:
    model = net(forward)
    names = [name for name, _ in model.named_modules()]
    graph = trace(model, LEAVES, inputs=(image(2),) if has_example else None)
    for size in (1, 2, 5):
        torch.testing.assert_close(graph(image(size)), model(image(size)), rtol=0, atol=0)
    assert [name for name, _ in model.named_modules()] == names


def test_parameters_of_a_module_in_a_list_are_in_the_graph() -> None:
    graph = trace(net(modules_in_a_list_or_dict), LEAVES)
    assert {"parts.0.weight", "amct_modules.Conv2d_1.weight"} <= set(graph.state_dict())


def autocast(self: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.parts(x)


def weights_made_in_the_forward(self: Any, x: Tensor) -> Tensor:
    return nn.Conv2d(4, 4, 1)(self.parts(x))


def dropout_that_eval_does_not_reach(self: Any, x: Tensor) -> Tensor:
    return nn.Dropout(0.5)(self.parts(x))


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (autocast, "a region of torch.autocast"),
        (weights_made_in_the_forward, "a module or parameter that the model does not own"),
        (dropout_that_eval_does_not_reach, "a module or parameter that the model does not own"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
@pytest.mark.parametrize("has_example", [False, True], ids=["stock", "guided"])
def test_what_no_graph_can_hold_is_refused_with_the_line(forward: Forward, reason: str, has_example: bool) -> None:
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        trace(net(forward), LEAVES, inputs=(image(2),) if has_example else None)
    assert f"in {forward.__name__}" in str(caught.value)


def test_autocast_that_is_off_or_around_everything_is_taken() -> None:
    def off(self: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.parts(x)

    trace(net(off), LEAVES, inputs=(image(2),))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trace(net(slices), LEAVES, inputs=(image(2),))


def cached_grid(self: Any, x: Tensor) -> Tensor:
    y = self.parts(x)
    if self.shape != y.shape:
        self.grid, self.shape = torch.linspace(0, 1, y.shape[-1], device=y.device), y.shape
    return y + self.grid


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_cache_of_an_earlier_forward_fixes_no_batch_size(size: int) -> None:
    model = net(cached_grid)
    model(image(size))
    graph = trace(model, LEAVES, inputs=(image(2),))
    for other in (1, 2, 3, 7):
        torch.testing.assert_close(graph(image(other)), model(image(other)), rtol=0, atol=0)
    with pytest.raises(Exception, match=r"view|size|shape"):
        graph(torch.randn(2, 4, 6, 6))
