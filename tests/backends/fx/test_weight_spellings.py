"""A weight is recognized in every spelling: the same grids, integers and files as with a plain module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from tests.support.twins import Twins, assert_restores, assert_trains, assert_twins


def conv(weight: Tensor, bias: Tensor | None = None, **settings: Any) -> nn.Conv2d:
    outputs, inputs, *kernel = weight.shape
    made = nn.Conv2d(inputs * settings.get("groups", 1), outputs, tuple(kernel), bias=bias is not None, **settings)
    return filled(made, weight, bias)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    return filled(nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None), weight, bias)


def filled(module: Any, weight: Tensor, bias: Tensor | None) -> Any:
    module.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        module.bias = nn.Parameter(bias.detach().clone())
    return module


class Bare(nn.Module):
    """Parameters of its own, and calls of functions."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.shift = nn.Parameter(torch.randn(6, 2, 3, 3)), nn.Parameter(torch.randn(6))
        self.up = nn.Parameter(torch.randn(6, 3, 2, 2))
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(F.conv2d(x, self.kernel, self.shift, stride=2, padding=1, groups=2))
        x = F.conv_transpose2d(x, self.up, stride=2)
        return F.linear(x.mean((2, 3)), weight=self.head.weight, bias=self.head.bias)


class PlainBare(nn.Module):
    def __init__(self, model: Bare) -> None:
        super().__init__()
        self.conv = conv(model.kernel, model.shift, stride=2, padding=1, groups=2)
        self.up = filled(nn.ConvTranspose2d(6, 3, 2, stride=2, bias=False), model.up, None)
        self.head = linear(model.head.weight, model.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(torch.relu(self.conv(x))).mean((2, 3)))


class StandardizedConv2d(nn.Conv2d):
    """Weight standardization with a gain, as in networks without normalization."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)
        self.scale = self.weight[0].numel() ** -0.5

    def standardized(self) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        gain = (self.gain * self.scale).view(-1)
        return F.batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0).reshape_as(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.standardized(), self.bias, self.stride, self.padding, self.dilation, self.groups)


class Reparametrized(nn.Module):
    """Two branches that are summed in the weights, and a low-rank update of a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.head = nn.Linear(6, 5)
        self.down, self.up = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(5, 2))

    def kernel(self) -> Tensor:
        return self.large.weight + F.pad(self.small.weight, [1, 1, 1, 1])

    def matrix(self) -> Tensor:
        return self.head.weight + 0.5 * (self.up @ self.down)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.kernel(), self.large.bias + self.small.bias, padding=1)
        return F.linear(x.flatten(2).mean(-1), self.matrix(), self.head.bias)


class PlainReparametrized(nn.Module):
    def __init__(self, model: Reparametrized) -> None:
        super().__init__()
        self.conv = conv(model.kernel(), model.large.bias + model.small.bias, padding=1)
        self.head = linear(model.matrix(), model.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(2).mean(-1))


class Buffers(nn.Module):
    """A fixed blur whose kernel is a buffer, expanded to the channels, and a cast that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("blur", row.outer(row)[None, None] / 16)
        self.matrix = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.blur.expand(4, -1, -1, -1), stride=2, groups=4)
        return F.linear(x.mean((2, 3)), self.matrix.to(x.dtype))


class PlainBuffers(nn.Module):
    def __init__(self, model: Buffers) -> None:
        super().__init__()
        self.conv = conv(model.blur.expand(4, -1, -1, -1), stride=2, groups=4)
        self.head = linear(model.matrix)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3)))


class Normalized(nn.Module):
    """A BatchNorm behind a function, and torch's own parametrization of a weight that a function reads."""

    def __init__(self) -> None:
        super().__init__()
        self.holder = parametrizations.weight_norm(nn.Conv2d(4, 6, 3))
        self.norm = nn.BatchNorm2d(6)
        nn.init.uniform_(self.norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(F.conv2d(x, self.holder.weight, self.holder.bias)))


class PlainNormalized(nn.Module):
    def __init__(self, model: Normalized) -> None:
        super().__init__()
        self.conv, self.norm = conv(model.holder.weight, model.holder.bias), model.norm

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


class Products(nn.Module):
    """A Linear in five spellings."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(5, 4))
        self.third, self.fourth = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(2, 4, 3))
        self.fifth, self.shift = nn.Parameter(torch.randn(4, 2, 3)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addmm(self.shift, x.flatten(0, 1), self.first, beta=2, alpha=0.5)
        x = F.hardswish(x.unflatten(0, (-1, 7)) @ self.second)
        x = F.hardswish(torch.einsum("bnc,dc->bnd", x, self.third).matmul(self.third))
        x = torch.einsum("hcd,bnc->bnhd", self.fourth, x).flatten(2)
        return torch.einsum("...c,chd->...hd", x[..., :4], self.fifth).sum(-1)


class PlainProducts(nn.Module):
    def __init__(self, model: Products) -> None:
        super().__init__()
        self.first = linear(model.first.t() * 0.5, model.shift * 2)
        self.second, self.third = linear(model.second.t()), linear(model.third)
        self.again = linear(model.third.t())
        self.fourth = linear(model.fourth.transpose(1, 2).flatten(0, 1))
        self.fifth = linear(model.fifth.flatten(1).t())

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(0, 1))
        x = F.hardswish(self.second(x.unflatten(0, (-1, 7))))
        x = F.hardswish(self.again(self.third(x)))
        x = self.fourth(x).unflatten(-1, (2, 3)).flatten(2)
        return self.fifth(x[..., :4]).unflatten(-1, (2, 3)).sum(-1)


class Dots(nn.Module):
    """Products with parameters by functions that name the summed axes, or chain several factors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(4, 5))
        self.third, self.fourth = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tensordot(x, self.first, dims=1)
        x = F.hardswish(torch.inner(x, self.second)).flatten(0, 1)
        return torch.linalg.multi_dot([x, self.third, self.fourth])


class PlainDots(nn.Module):
    def __init__(self, model: Dots) -> None:
        super().__init__()
        self.first, self.second = linear(model.first.t()), linear(model.second)
        self.third, self.fourth = linear(model.third.t()), linear(model.fourth.t())

    def forward(self, x: Tensor) -> Tensor:
        return self.fourth(self.third(F.hardswish(self.second(self.first(x))).flatten(0, 1)))


class Attention(nn.Module):
    """Products of two tensors of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(6, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x).unflatten(-1, (3, 2, 2)).unbind(2)
        scores = torch.einsum("bnhd,bmhd->bhnm", q, k)
        mixed = torch.einsum("bhnm,bmhd->bnhd", F.softmax(scores, -1), v).flatten(2)
        mixed = torch.baddbmm(mixed, mixed @ mixed.transpose(1, 2), mixed, beta=0.5, alpha=0.1)
        return mixed.select(1, 0).mm(mixed.select(1, 1).t())


class PlainAttention(nn.Module):
    def __init__(self, model: Attention) -> None:
        super().__init__()
        self.to_qkv = model.to_qkv

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x).unflatten(-1, (3, 2, 2)).unbind(2)
        scores = q.permute(0, 2, 1, 3) @ k.permute(0, 2, 3, 1)
        mixed = (F.softmax(scores, -1) @ v.permute(0, 2, 1, 3)).permute(0, 2, 1, 3).flatten(2)
        mixed = mixed @ mixed.transpose(1, 2) @ mixed * 0.1 + mixed * 0.5
        return mixed.select(1, 0) @ mixed.select(1, 1).t()


class Hooked(nn.Module):
    """A weight that a forward pre-hook computes, and a BatchNorm behind one of them."""

    def __init__(self, hook: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.conv = hook(nn.Conv2d(4, 6, 3, padding=1))
        self.up, self.norm = hook(nn.ConvTranspose2d(6, 5, 2, stride=2)), nn.BatchNorm2d(5)
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)
        nn.init.ones_(self.norm.bias)  # so that the ReLU lets something through
        self.head = hook(nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.up(self.conv(x)))).mean((2, 3)))


def plain_hooked(model: Hooked) -> nn.Module:
    model(torch.randn(1, 4, 5, 5))  # the hooks store the weights
    made = Hooked(lambda module: module)
    for name in ("conv", "up", "head"):
        filled(getattr(made, name), getattr(model, name).weight, getattr(model, name).bias)
        for hooked in (getattr(model, name),):  # else the model cannot be copied
            hooked.weight = hooked.weight.detach()
    made.norm = model.norm
    return made


def hooked_case(hook: Callable[[nn.Module], nn.Module], *parameters: str) -> Twins:
    names = tuple(f"{module}.{name}" for module in ("conv", "up", "head") for name in parameters)
    layers = {name: name for name in ("conv", "up", "mean", "head")}
    return Twins(lambda: Hooked(hook), plain_hooked, layers, weight_parameters=(*names, "norm.weight"))


def pruned(module: nn.Module) -> nn.Module:
    return prune.l1_unstructured(module, "weight", 0.5)


def standardized_twin(model: StandardizedConv2d) -> nn.Module:
    return nn.Sequential(conv(model.standardized(), model.bias, padding=1))


CASES = {
    "parameters": Twins(
        Bare,
        PlainBare,
        {"conv2d": "conv", "conv_transpose2d": "up", "mean": "mean", "linear": "head"},
        weight_parameters=("kernel", "shift", "up", "head.weight"),
    ),
    "weight standardization": Twins(
        lambda: StandardizedConv2d(4, 6, 3, padding=1),
        standardized_twin,
        {"conv2d": "_0"},
        weight_parameters=("weight", "gain", "bias"),
    ),
    "summed branches and a low-rank update": Twins(
        Reparametrized,
        PlainReparametrized,
        {"conv2d": "conv", "flatten": "flatten", "mean": "mean", "linear": "head"},
        weight_parameters=("large.weight", "small.weight", "up", "down"),
    ),
    "buffers and a cast": Twins(
        Buffers, PlainBuffers, {"conv2d": "conv", "mean": "mean", "linear": "head"}, weight_parameters=("matrix",)
    ),
    "folded BatchNorm behind a parametrized weight": Twins(
        Normalized,
        PlainNormalized,
        {"conv2d": "conv"},
        weight_parameters=(
            "holder.parametrizations.weight.original0",
            "holder.parametrizations.weight.original1",
            "norm.weight",
        ),
    ),
    "weight_norm hook": hooked_case(nn.utils.weight_norm, "weight_g", "weight_v"),
    "spectral_norm hook": hooked_case(nn.utils.spectral_norm, "weight_orig"),
    "prune hook": hooked_case(pruned, "weight_orig"),
    "products with parameters": Twins(
        Products,
        PlainProducts,
        {
            **{"flatten": "flatten", "addmm": "first", "matmul": "second", "hardswish": "hardswish"},
            **{"einsum": "third", "matmul_1": "again", "hardswish_1": "hardswish_1", "einsum_1": "fourth"},
            **{"einsum_2": "fifth", "sum_1": "sum_1"},
        },
        input_shape=(2, 7, 6),
        weight_parameters=("first", "second", "third", "fourth", "fifth", "shift"),
    ),
    "products by axes and chains": Twins(
        Dots,
        PlainDots,
        {
            **{"tensordot": "first", "inner": "second", "hardswish": "hardswish", "flatten": "flatten"},
            **{"linalg_multi_dot_matmul": "third", "linalg_multi_dot": "fourth"},
        },
        input_shape=(2, 7, 6),
        weight_parameters=("first", "second", "third", "fourth"),
    ),
    "products of the data": Twins(
        Attention,
        PlainAttention,
        {
            **{"to_qkv": "to_qkv", "einsum_permute": "permute", "einsum_permute_1": "permute_1", "einsum": "matmul"},
            **{"softmax": "softmax", "einsum_1_permute": "permute_2", "einsum_1": "matmul_1"},
            **{"einsum_1_permute_1": "permute_3", "flatten": "flatten", "transpose": "transpose", "matmul": "matmul_2"},
            **{"baddbmm": "matmul_3", "baddbmm_mul": "mul", "baddbmm_mul_1": "mul_1", "baddbmm_add": "add"},
            "mm": "matmul_4",
        },
        input_shape=(2, 7, 6),
        weight_parameters=("to_qkv.weight",),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_weight_of_a_function_is_that_of_a_module(name: str, tmp_path: Path) -> None:
    assert_twins(CASES[name], tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_model_restores(name: str, tmp_path: Path) -> None:
    assert_restores(CASES[name], tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_training_reaches_the_parameters(name: str, tmp_path: Path) -> None:
    assert_trains(CASES[name], tmp_path)
