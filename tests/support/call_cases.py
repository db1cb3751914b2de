"""Calls of torch that handlers of the table write, with negative, fractional, zero and tied arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct


@dataclasses.dataclass(frozen=True)
class CallCase:
    """One call.

    Attributes:
      id: Name of the test.
      call: Takes the inputs.
      inputs: The inputs.
      opset: Lowest opset with the operator.
    """

    id: str
    call: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    opset: int = 13


def _numbers(*shape: int, seed: int = 0) -> Tensor:
    """Numbers with ties, halves, both zeros and both signs among them."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3
    flat = x.view(-1)
    special = torch.tensor([0.0, -0.0, 0.5, -0.5, 1.5, -1.5, 2.0, -2.0, 2.5, 100.0, -100.0, 3.0, -3.0, 6.0])
    count = min(len(special), flat.numel() // 2)
    flat[: 2 * count : 2] = special[:count]
    return x


X, Y = _numbers(2, 8, 6, 6), _numbers(2, 8, 6, 6, seed=1)
Y_TIED = torch.where(torch.arange(6) % 2 == 0, X, Y)
T = _numbers(2, 5, 16)
INTS = torch.arange(-12, 12).reshape(2, 3, 4)
DIVISORS = torch.tensor([3, -3, 5, -5]).expand(2, 3, 4).clone()
P = X.abs() + 0.1
B = X > 0


def _of(name: str, call: Callable[..., Any], *inputs: Tensor, opset: int = 13) -> CallCase:
    return CallCase(name, call, inputs or (X,), opset)


def _named(names: str, *inputs: Tensor, home: Any = torch) -> list[CallCase]:
    return [_of(name, getattr(home, name), *inputs) for name in names.split()]


def _module(module: nn.Module, *inputs: Tensor, opset: int = 13) -> CallCase:
    return _of(str(module), module.eval(), *inputs, opset=opset)


torch.manual_seed(0)

ARITHMETIC = [
    _of("x + 1", lambda x: x + 1),
    _of("1 + x", lambda x: 1 + x),
    _of("add alpha", lambda x, y: torch.add(x, y, alpha=0.3), X, Y),
    _of("int + float", lambda i: i + 0.5, INTS),
    _of("int + int", lambda i, j: i + j, INTS, DIVISORS),
    _of("float + int", lambda x, i: x[:, :3, :4, 0] + i, X, INTS),
    _of("x += 1", lambda x: x.clone().add_(1)),
    _of("x - y", lambda x, y: x - y, X, Y),
    _of("2 - x", lambda x: 2 - x),
    _of("2 - int", lambda i: 2 - i, INTS),
    _of("sub alpha", lambda x, y: torch.sub(x, y, alpha=2), X, Y),
    _of("x * y", lambda x, y: x * y, X, Y),
    _of("int * float", lambda i: i * 0.5, INTS),
    _of("x / y", lambda x, y: x / y, X, P),
    _of("int / int", lambda i, j: i / j, INTS, DIVISORS),
    _of("x / 0", lambda x: x / 0.0),
    _of("1 / x", lambda x: 1 / x, P),
    _of("3 / x", lambda x: 3 / x, P),
    _of("div trunc", lambda x, y: torch.div(x, y, rounding_mode="trunc"), X, P),
    _of("div floor", lambda x, y: torch.div(x, y, rounding_mode="floor"), X, P),
    _of("int div trunc", lambda i, j: torch.div(i, j, rounding_mode="trunc"), INTS, DIVISORS),
    _of("x // 0.5", lambda x: x // 0.5),
    _of("x // -0.7", lambda x: x // -0.7),
    _of("x // 0.1", lambda x: x // 0.1),
    _of("x // y", lambda x, y: x // y, X, Y),
    _of("int // int", lambda i, j: i // j, INTS, DIVISORS),
    _of("int // 3", lambda i: i // 3, INTS),
    _of("7 // x", lambda x: 7 // x, P),
    _of("floor_divide", lambda x: torch.floor_divide(x, 1.5)),
    _of("x % 0.7", lambda x: x % 0.7),
    _of("x % -2", lambda x: x % -2),
    _of("int % int", lambda i, j: i % j, INTS, DIVISORS),
    _of("remainder", lambda x, y: torch.remainder(x, y), X, P),
    _of("fmod", lambda x, y: torch.fmod(x, y), X, P),
    _of("int fmod", lambda i, j: torch.fmod(i, j), INTS, DIVISORS),
    _of("x ** 2", lambda x: x**2),
    _of("x ** 3", lambda x: x**3),
    _of("x ** -1", lambda x: x**-1, P),
    _of("x ** 0.5", lambda x: x**0.5, P),
    _of("2 ** x", lambda x: 2**x, X.clamp(-9, 9)),
    _of("x ** y", lambda x, y: x**y, P.clamp(max=9), Y.clamp(-3, 3)),
    _of("int ** 2", lambda i: i**2, INTS),
    _of("addcmul", lambda x, y: torch.addcmul(x, x, y, value=0.5), X, Y),
    _of("addcdiv", lambda x, y: torch.addcdiv(x, x, y, value=-2), X, P),
    *_named("maximum minimum fmax fmin", X, Y_TIED),
    _of("maximum of ints", torch.maximum, INTS, DIVISORS),
    _of("clamp", lambda x: x.clamp(-0.5, 2)),
    _of("clamp min", lambda x: x.clamp(min=0.5)),
    _of("clamp max", lambda x: torch.clamp(x, max=-0.5)),
    _of("clamp crossed", lambda x: x.clamp(2, -2)),
    _of("clamp int", lambda i: i.clamp(-3, 4), INTS),
    _of("clamp int by floats", lambda i: i.clamp(-2.5, 3.5), INTS),
    _of("clamp by tensors", lambda x, y: torch.clamp(x, y - 1, y + 1), X, Y),
    *_named("clamp_min clamp_max", X, torch.tensor(0.5)),
]

ELEMENTS = [
    *_named("abs neg sign floor ceil round trunc frac square exp sin cos atan sinh cosh asinh sigmoid tanh erf", X),
    *_named("log sqrt rsqrt reciprocal", P),
    *_named("asin acos atanh", X.clamp(-0.9, 0.9)),
    _of("acosh", torch.acosh, P + 1),
    *(
        _of(f"{name} of ints", getattr(torch, name), INTS)
        for name in ("abs", "neg", "sign", "floor", "round", "exp", "sqrt")
    ),
    _of("isnan", lambda x: torch.isnan(x / x)),
    _of("isinf", lambda x: torch.isinf(1 / x)),
    _of("nan_to_num", lambda x: torch.nan_to_num(torch.log(x) / x)),
    _of("nan_to_num of numbers", lambda x: torch.nan_to_num(1 / x, nan=1.0, posinf=2.0, neginf=-3.0)),
    *_named("eq ne lt le gt ge", X, Y_TIED),
    _of("x == 2", lambda x: x == 2),
    _of("int > 0.5", lambda i: i > 0.5, INTS),
    _of("int != float", lambda x, i: x[:, :3, :4, 0] != i, X, INTS),
    _of("bool == bool", lambda x, y: (x > 0) == (y > 0), X, Y),
    _of("and", lambda x: (x > -1) & (x < 1)),
    _of("or", lambda x: (x < -1) | (x > 1)),
    _of("xor", lambda x, y: (x > 0) ^ (y > 0), X, Y),
    _of("not", lambda x: ~(x > 0)),
    *_named("logical_and logical_or logical_xor", X, Y),
    _of("logical_not", torch.logical_not),
    _of("int &", lambda i: i & 6, INTS, opset=18),
    _of("where", lambda x, y: torch.where(x > 0, x, y), X, Y),
    _of("where number", lambda x: torch.where(x > 0, x, 0.25)),
    _of("x.where", lambda x, y: x.where(x > y, y), X, Y),
    _of("masked_fill", lambda x: x.masked_fill(x < 0, float("-inf"))),
    _of("to int", lambda x: x.to(torch.int64)),
    _of("to bool", lambda x: x.bool()),
    _of("int to float", lambda i: i.float(), INTS),
    _of("type_as", lambda x, i: i.type_as(x), X, INTS),
    _of("clone", lambda x: x.clone() + 0),
]

ACTIVATIONS = [
    *_named(
        "relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh softplus softsign", X, home=F
    ),
    *_named("logsigmoid tanhshrink softshrink hardshrink", X, home=F),
    _of("gelu tanh", lambda x: F.gelu(x, approximate="tanh")),
    _of("elu 0.3", lambda x: F.elu(x, 0.3)),
    _of("celu 0.3", lambda x: F.celu(x, 0.3)),
    _of("leaky_relu -0.2", lambda x: F.leaky_relu(x, -0.2)),
    _of("hardtanh -0.3 0.2", lambda x: F.hardtanh(x, -0.3, 0.2)),
    _of("softplus 2", lambda x: F.softplus(x, beta=2)),
    _of("softplus low threshold", lambda x: F.softplus(x, beta=0.5, threshold=1.0)),
    _of("softshrink 0", lambda x: F.softshrink(x, 0)),
    _of("hardshrink 2", lambda x: F.hardshrink(x, 2)),
    _of("threshold 0", lambda x: F.threshold(x, 0, 0)),
    _of("threshold -0.5 20", lambda x: F.threshold(x, -0.5, 20)),
    _of("threshold 2 -1", lambda x: F.threshold(x, 2, -1)),
    _of("glu", lambda x: F.glu(x, 1)),
    _of("glu last", F.glu),
    _module(nn.PReLU()),
    _module(nn.PReLU(8, init=0.3)),
    _module(nn.PReLU(5, init=-0.3), T),
    _module(nn.RReLU()),
    _of("softmax", lambda x: x.softmax(1)),
    _of("F.softmax", lambda x: F.softmax(x, dim=-1)),
    _of("F.softmax without axis", lambda x: F.softmax(x)),
    _of("softmax of ints", lambda i: torch.softmax(i, 1, dtype=torch.float32), INTS),
    _of("log_softmax", lambda x: F.log_softmax(x, 2)),
    _of("softmin", lambda x: F.softmin(x, 1)),
    _module(nn.Softmax2d()),
    _module(nn.Dropout(0.7)),
]


def _weights(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


PRODUCTS = [
    _module(nn.Conv2d(8, 4, 3)),
    _module(nn.Conv2d(8, 4, 3, 2, 1, bias=False)),
    _module(nn.Conv2d(8, 4, (2, 3), (1, 2), (0, 2), (2, 1), groups=2)),
    _module(nn.Conv2d(8, 4, 3, padding="same")),
    _module(nn.Conv2d(8, 4, 2, padding="same", dilation=3)),
    _module(nn.Conv2d(8, 4, 2, padding="valid")),
    *(_module(nn.Conv2d(8, 4, 3, padding=1, padding_mode=mode)) for mode in ("reflect", "replicate", "circular")),
    _of("conv2d without batch", nn.Conv2d(8, 4, 3), X[0]),
    _of("conv2d of a computed weight", lambda x, y: F.conv2d(x, y[:, :, :2, :2].reshape(2, 8, 2, 2)), X, Y),
    _module(nn.Conv1d(5, 4, 3, padding=2, dilation=2), T),
    _module(nn.Conv3d(2, 4, 2), X.reshape(1, 2, 4, 2, 36).reshape(1, 2, 4, 6, 12)),
    _module(nn.ConvTranspose2d(8, 4, 3, 2, 1, 1)),
    _module(nn.ConvTranspose2d(8, 4, 2, 2, groups=4, bias=False)),
    _module(nn.ConvTranspose2d(8, 6, (2, 3), (3, 2), 1, (1, 0), dilation=2, groups=2)),
    _module(nn.ConvTranspose1d(5, 4, 3), T),
    _module(nn.Linear(6, 3)),
    _module(nn.Linear(6, 3, bias=False)),
    _of("linear 2d", nn.Linear(16, 3), T[0]),
    _of("linear 2d without bias", nn.Linear(16, 3, bias=False), T[0]),
    _of("linear 1d", nn.Linear(16, 3), T[0, 0]),
    _of("linear of a computed weight", lambda t: F.linear(t, t[0] * 2), T),
    _of("matmul", lambda a, b: a @ b.transpose(1, 2), T, T),
    _of("matmul of vectors", lambda a, b: a[0, 0] @ b[0, 0], T, T),
    _of("matrix times vector", lambda a, b: a @ b[0, 0], T, T),
    _of("mm", lambda a: torch.mm(a[0], a[1].t()), T),
    _of("bmm", lambda a: torch.bmm(a, a.mT), T),
    _of("addmm", lambda a: torch.addmm(a[0, :, :5], a[0], a[1].t(), beta=0.5, alpha=2), T),
    _of("addmm of a row", lambda a: torch.addmm(a[0, 0, :5], a[0], a[1].t()), T),
    _of("baddbmm", lambda a: torch.baddbmm(a[:, :, :5], a, a.mT, beta=0.5, alpha=2), T),
    _of("einsum", lambda a: torch.einsum("bnc,bmc->bnm", a, a), T),
    _of("einsum in a list", lambda a: torch.einsum("b n c -> b n", [a]), T),
    _of("attention", lambda a: F.scaled_dot_product_attention(a, a, a), T / 4),
    _of("attention causal", lambda a: F.scaled_dot_product_attention(a, a, a, is_causal=True, scale=0.1), T),
    _of(
        "attention mask", lambda a, m: F.scaled_dot_product_attention(a, a, a, m > 0), T, torch.eye(5) + _weights(5, 5)
    ),
    _of("attention bias", lambda a, m: F.scaled_dot_product_attention(a, a, a, m), T / 4, _weights(5, 5)),
]

POOLINGS = [
    _module(nn.MaxPool2d(2)),
    _module(nn.MaxPool2d(3, 2, 1)),
    _module(nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    _module(nn.MaxPool2d(2, 3, 1, ceil_mode=True)),
    _module(nn.MaxPool2d((2, 3), (1, 2), (1, 1), dilation=(2, 1))),
    _of("max_pool2d without batch", nn.MaxPool2d(2), X[0]),
    _of("max_pool2d indices", lambda x: F.max_pool2d(x, 2, return_indices=True)),
    _of("max_pool2d indices padded", lambda x: F.max_pool2d_with_indices(x, 3, 2, 1)),
    _module(nn.MaxPool1d(3, 2), T),
    _module(nn.AvgPool2d(2)),
    _module(nn.AvgPool2d(3, 2, 1)),
    _module(nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    _module(nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
    _module(nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)),
    _module(nn.AvgPool2d(2, 3, 1, ceil_mode=True)),
    _module(nn.AvgPool2d((2, 3), divisor_override=4)),
    _module(nn.AvgPool2d(3, 2, 1, divisor_override=2)),
    _module(nn.AvgPool2d(3, 2, 1, count_include_pad=False, divisor_override=2)),
    _of("avg_pool2d without batch", nn.AvgPool2d(2), X[0]),
    _module(nn.AvgPool1d(3, 2, 1), T),
    *(_module(nn.AdaptiveAvgPool2d(size)) for size in (1, 2, (1, 6), (None, 1), (3, 2), 5)),
    _of("adaptive 7 to 3", nn.AdaptiveAvgPool2d(3), _numbers(1, 2, 7, 7)),
    _of("adaptive_avg_pool2d without batch", nn.AdaptiveAvgPool2d(1), X[0]),
    _of("adaptive_avg_pool2d 2 without batch", nn.AdaptiveAvgPool2d(2), X[0]),
    *(_module(nn.AdaptiveMaxPool2d(size)) for size in (1, 2, (1, 6), (3, None), 5)),
    _of("adaptive_max_pool2d indices", lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True)),
    _module(nn.AdaptiveAvgPool1d(4), T),
    _module(nn.AdaptiveMaxPool1d(2), T),
]


def _learned(module: Any) -> nn.Module:
    for number, one in enumerate((*module.parameters(), *module.buffers())):
        if one.is_floating_point():
            one.data.copy_(torch.rand(one.shape, generator=torch.Generator().manual_seed(number)) + 0.5)
    return module


NORMS = [
    *(_module(_learned(nn.BatchNorm2d(8, affine=affine))) for affine in (True, False)),
    _module(_learned(nn.BatchNorm1d(5)), T),
    _module(_learned(nn.BatchNorm1d(16)), T[0]),
    *(_module(_learned(nn.InstanceNorm2d(8, affine=affine))) for affine in (True, False)),
    _module(_learned(nn.InstanceNorm2d(8, track_running_stats=True))),
    *(
        _module(_learned(nn.GroupNorm(groups, 8, affine=affine)))
        for groups, affine in ((2, True), (8, True), (1, False))
    ),
    _module(_learned(nn.GroupNorm(5, 5)), T),
    _module(_learned(nn.LayerNorm(6))),
    _module(_learned(nn.LayerNorm((6, 6), bias=False))),
    _module(_learned(nn.LayerNorm((8, 6, 6), elementwise_affine=False, eps=1e-2))),
    _module(_learned(nn.RMSNorm(6))),
    _module(nn.RMSNorm((6, 6), eps=1e-3, elementwise_affine=False)),
    _of("normalize", F.normalize),
    _of("normalize of zeros", lambda x: F.normalize(x * 0, dim=-1)),
    _of("normalize 1", lambda x: F.normalize(x, p=1, dim=2)),
]

REDUCTIONS = [
    *(_of(f"{name}", lambda x, name=name: getattr(x, name)()) for name in ("sum", "mean", "max", "min", "std", "var")),
    *(
        _of(f"{name} of an axis", lambda x, name=name: getattr(x, name)(1))
        for name in ("sum", "mean", "amax", "amin", "std", "var", "argmax", "argmin", "logsumexp", "cumsum")
    ),
    *(
        _of(f"{name} of axes", lambda x, name=name: getattr(torch, name)(x, (-1, 2), keepdim=True))
        for name in ("sum", "mean", "amax", "amin", "std", "var", "logsumexp")
    ),
    *(
        _of(f"{name} kept", lambda x, name=name: getattr(x, name)(-1, keepdim=True))
        for name in ("max", "min", "argmax")
    ),
    _of("max of an axis", lambda x: torch.max(x, dim=2)[0]),
    _of("max with ties", lambda x: (x * 0).max(1)),
    _of("max of two", torch.max, X, Y_TIED),
    _of("min of two", torch.min, X, Y_TIED),
    _of("sum of ints", lambda i: i.sum(1), INTS),
    _of("sum of bools", lambda x: (x > 0).sum((2, 3))),
    _of("mean of ints", lambda i: i.mean(1, dtype=torch.float32), INTS),
    _of("prod", lambda x: x.clamp(-1.5, 1.5).prod(1)),
    _of("sum of nothing", lambda x: x[:, :0].sum(1)),
    _of("var of all", lambda x: x.var((2, 3), unbiased=False)),
    _of("var corrected", lambda x: x.var(1, correction=3)),
    _of("std biased", lambda x: x.std(False)),
    _of("cumsum of ints", lambda i: i.cumsum(-1), INTS),
    _of("topk", lambda x: x.flatten(1).topk(3)),
    _of("topk smallest", lambda x: x.flatten(1).topk(3, largest=False)[0]),
]

SHAPES = [
    _of("view", lambda x: x.view(2, -1)),
    _of("view as it is", lambda x: x.view(2, 8, 6, 6) + 0),
    _of("reshape", lambda x: x.reshape(-1, 36)),
    _of("reshape of nothing", lambda x: x[:, :0].reshape(0, 6), opset=14),
    _of("reshape_as", lambda x, y: x.reshape_as(y.flatten(1)), X, Y),
    _of("view_as", lambda x, y: x.view_as(y.flatten(1)), X, Y),
    _of("unflatten", lambda x: x.unflatten(1, (2, -1))),
    *(_of(f"flatten {a}", lambda x, a=a: torch.flatten(x, *a)) for a in ((), (1,), (2,), (1, 2), (-2, -1), (0, 1))),
    _of("flatten of a vector", lambda t: t[0, 0].flatten(), T),
    _of("squeeze", lambda x: x[:, :1].squeeze(1)),
    _of("squeeze all", lambda x: x[:1, :1].squeeze()),
    _of("squeeze nothing", lambda x: x.squeeze(1) + 0),
    _of("squeeze several", lambda x: x[:1, :1].squeeze((0, 1))),
    *(_of(f"unsqueeze {axis}", lambda x, axis=axis: x.unsqueeze(axis)) for axis in (0, 2, -1, -2)),
    _of("expand", lambda x: x[:, :1].expand(-1, 4, -1, -1)),
    _of("expand to more axes", lambda x: x[:, :1].expand(3, 2, 4, 6, 6)),
    _of("expand_as", lambda x: x[:, :1].expand_as(x)),
    _of("repeat", lambda x: x.repeat(1, 2, 1, 3)),
    _of("repeat more axes", lambda x: x.repeat(2, 1, 1, 1, 1)),
    _of("repeat by a list", lambda x: x.repeat([1, 1, 2, 1])),
    _of("permute", lambda x: x.permute(0, 2, 3, 1)),
    _of("permute by a list", lambda x: torch.permute(x, (0, -1, 1, 2))),
    _of("transpose", lambda x: x.transpose(-1, 1)),
    _of("swapaxes", lambda x: torch.swapaxes(x, 0, 1)),
    _of("t", lambda t: t[0].t(), T),
    _of("mT", lambda x: x.mT),
    _of("T", lambda t: t[0].T, T),
    *(
        _of(f"movedim {a}", lambda x, a=a: torch.movedim(x, *a))
        for a in ((1, 3), (1, -1), (-1, 1), (-2, 0), ((0, 1), (2, 3)), ((-1, 0), (1, -1)))
    ),
]

MOVEMENTS = [
    _of("cat", lambda x, y: torch.cat([x, y], 1), X, Y),
    _of("cat last", lambda x, y: torch.cat((x, y), dim=-1), X, Y),
    _of("cat with an empty vector", lambda x: torch.cat([x.new_zeros(0), x], 1)),
    _of("cat of types", lambda x, i: torch.cat([x[:, :3, :4, 0], i], 1), X, INTS),
    _of("stack", lambda x, y: torch.stack([x, y], 1), X, Y),
    _of("stack last", lambda x, y: torch.stack([x, y], -1), X, Y),
    _of("hstack", lambda x: torch.hstack([x[:, :4], x[:, 4:] * 2])),
    _of("hstack of vectors", lambda t: torch.hstack([t[0, 0], t[1, 1]]), T),
    _of("vstack", lambda x: torch.vstack([x, x])),
    _of("split", lambda x: x.split(3, 1)),
    _of("split into sizes", lambda x: torch.split(x, [3, 0, 5], dim=1)),
    _of("split into one", lambda x: x.split(8, 1)),
    _of("chunk", lambda x: x.chunk(2, 1)),
    _of("chunk uneven", lambda x: x.chunk(3, -1)),
    _of("chunk 5 of 8", lambda x: x.chunk(5, 1)),
    _of("tensor_split", lambda x: x.tensor_split(3, 1)),
    _of("tensor_split at", lambda x: torch.tensor_split(x, (2, 5), 1)),
    _of("unbind", lambda t: t.unbind(1), T),
    _of("unbind of one", lambda x: x[:, :1].unbind(1)),
    _of("select", lambda x: x.select(1, -1)),
    _of("narrow", lambda x: x.narrow(2, 1, 3)),
    _of("flip", lambda x: x.flip(1, -1)),
    _of("flip by a list", lambda x: torch.flip(x, [2])),
    _of("roll", lambda x: x.roll(2, 1)),
    _of("roll further than the axis", lambda x: x.roll(9, 1)),
    _of("roll two", lambda x: torch.roll(x, (-1, 4), (2, -1))),
    _of("roll of all", lambda x: x.roll(5)),
    _of("roll of all, backwards", lambda x: torch.roll(x, -1)),
    _of("windows of an axis", lambda x: x.unfold(1, 2, 1)),
    _of("windows of the last axis", lambda x: x.unfold(-1, 2, 2)),
    _of("diff", lambda x: x.diff()),
    _of("diff twice", lambda x: torch.diff(x, n=2, dim=1)),
    _of("take along an axis", lambda x: x.take_along_dim(x.argmax(-1, keepdim=True), -1)),
    *(
        _of(f"sort {name} {how}", lambda x, how=how: x.sort(**how), x)
        for name, x in (("floats", X), ("ties", X.round()), ("integers", (X * 2).long()), ("int32", (X * 2).int()))
        for how in ({}, {"dim": 1}, {"dim": -2, "descending": True}, {"stable": True, "dim": 0})
    ),
    _of("argsort", lambda x: (torch.argsort(x), x.argsort(1, True))),
    _of("msort", lambda x: torch.msort(x)),
    _of("index_add", lambda x: x.index_add(1, torch.tensor([0, 2, 1, 0]), x[:, :4], alpha=2), opset=16),
    _of("index_add of data", lambda x: x.index_add(2, (x[0, 0, 0] > 0).long(), x), opset=16),
    _of(
        "index_put that adds",
        lambda x: x.index_put((torch.tensor([0, 0]), torch.tensor([[1], [-1]])), x[0, 0, :1], accumulate=True),
        opset=16,
    ),
    _of("index_put that adds at data", lambda x: x.index_put(((x[:, 0, 0, 0] > 9).long(),), x, True), opset=16),
    *(
        _of(f"arithmetic of {dtype}", lambda x, dtype=dtype: (x.to(dtype) + 120, x.to(dtype) * 77, -3 - x.to(dtype)), x)
        for dtype in (torch.int8, torch.int16, torch.uint8)
        for x in ((X.abs() * 9).round(),)
    ),
    _of("roll round", lambda x: x.roll(6, 2) + 0),
    *(_of(f"diagonal {a}", lambda x, a=a: x.diagonal(*a)) for a in ((0, 2, 3), (1, 2, 3), (-2, 1, -1), ())),
    _of("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2)),
    _of("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 3)),
    _of("channel_shuffle", lambda x: F.channel_shuffle(x, 4)),
    _of("pad", lambda x: F.pad(x, (1, 2, 0, 3))),
    _of("pad value", lambda x: F.pad(x, (1, 2), value=-0.5)),
    _of("pad crop", lambda x: F.pad(x, (-1, 2, 1, -2))),
    _of("pad channels", lambda x: F.pad(x, (0, 0, 0, 0, 1, 2))),
    _of("pad ints", lambda i: F.pad(i, (1, 1), value=7), INTS),
    _of("pad reflect", lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect")),
    _of("pad replicate", lambda x: F.pad(x, (1, 2, 3, 0), mode="replicate")),
    _of("pad circular", lambda x: F.pad(x, (1, 2, 3, 0), mode="circular")),
    _of("pad circular tokens", lambda t: F.pad(t, (2, 0), mode="circular"), T),
    _module(nn.ZeroPad2d((1, 0, 2, 1))),
    _module(nn.ReflectionPad2d(2)),
    *(
        _of(f"interpolate nearest {s}", lambda x, s=s: F.interpolate(x, scale_factor=s))
        for s in (0.5, 0.6, 1.1, 1.2, 1.5, 1.7, 2, 2.3)
    ),
    *(
        _of(
            f"interpolate {mode} {size} to {wanted}",
            partial(F.interpolate, size=wanted, mode=mode),
            _numbers(1, 2, size),
        )
        for mode in ("nearest", "nearest-exact")
        for size in (5, 7, 13)
        for wanted in (3, 11, 26, 37)
    ),
    _of("interpolate nearest two", lambda x: F.interpolate(x, scale_factor=(2, 0.5))),
    _of("interpolate nearest size", lambda x: F.interpolate(x, size=(9, 13))),
    _of("interpolate nearest smaller", lambda x: F.interpolate(x, size=4)),
    _of("interpolate nearest-exact", lambda x: F.interpolate(x, size=(9, 4), mode="nearest-exact")),
    _of("interpolate recomputed", lambda x: F.interpolate(x, scale_factor=1.7, recompute_scale_factor=True)),
    *(
        _of(f"interpolate {mode} {arguments}", lambda x, m=mode, a=arguments: F.interpolate(x, mode=m, **a))
        for mode in ("bilinear", "bicubic")
        for arguments in (
            {"scale_factor": 2},
            {"scale_factor": 1.7},
            {"scale_factor": 0.5},
            {"size": (9, 4)},
            {"size": (9, 13), "align_corners": True},
            {"scale_factor": 1.5, "align_corners": True},
        )
    ),
    _of("interpolate linear", lambda t: F.interpolate(t, scale_factor=2, mode="linear"), T),
    _of("interpolate area", lambda x: F.interpolate(x, size=(3, 2), mode="area")),
]

INDEXING = [
    *(
        _of(f"x[{name}]", call)
        for name, call in {
            "0": lambda x: x[0],
            "-1": lambda x: x[:, -1],
            "1:4": lambda x: x[:, 1:4],
            "-3:": lambda x: x[:, -3:],
            ":-2": lambda x: x[..., :-2],
            "::2, 1:": lambda x: x[:, ::2, 1:],
            "5:99:3": lambda x: x[:, 5:99:3],
            "4:2": lambda x: x[:, 4:2],
            "None": lambda x: x[:, None, 0],
            "..., None": lambda x: x[..., None],
            "0, None, 1:, None, 2": lambda x: x[0, None, 1:, None, 2],
            "list": lambda x: x[:, [0, 2, -1]],
            "list of slices": lambda x: x[[slice(None), slice(1, 4)]],
            "list of lists": lambda x: x[[[0, 1], [2, 0]]],
            "slice of tensors": lambda x: x[:, torch.tensor(1) : torch.tensor(4)],
            "list of slices of tensors": lambda x: x[[slice(None), slice(torch.tensor(1), torch.tensor(4), 1)]],
            "tensor": lambda x: x[:, torch.tensor([[0, 2], [1, 1]])],
            "tensor 0-d": lambda x: x[:, torch.tensor(2)],
            "tensor and slices": lambda x: x[:, 1:5, torch.tensor([0, 2]), ::2],
            "0, tensor": lambda x: x[0, :, torch.tensor([1, 3])],
        }.items()
    ),
    _of("x[data]", lambda x, i: x[i.abs().flatten() % 2], X, INTS),
    _of("gather", lambda x: x.gather(1, x.argmax(1, keepdim=True))),
    _of("index_select", lambda x: x.index_select(-1, torch.tensor([0, 0, 5]))),
    _of("embedding", lambda i: F.embedding(i.abs(), torch.arange(39.0).view(13, 3)), INTS),
    _of("tril", lambda x: x.tril(-1), opset=14),
    _of("triu", lambda x: torch.triu(x, 1), opset=14),
    _of("zeros_like", lambda x: x + torch.zeros_like(x)),
    _of("arange", lambda x: x * torch.arange(x.shape[-1])),
]

CUSTOM_FREE = [
    _of("space to depth", amct.nn.SpaceToDepth(2)),
    _of("depth to space", amct.nn.DepthToSpace(2)),
]

ZERO_D = torch.tensor(-1.5)
PLACES = torch.tensor([1, 0, -1])

ODD = [
    *(
        _of(f"{name} of a scalar", lambda x, name=name: getattr(x, name)(-1), ZERO_D)
        for name in ("sum", "amax", "logsumexp", "softmax", "log_softmax", "cumsum", "argmin", "max")
    ),
    _of("argmax of all", lambda x: (x.argmax(), x.argmax(None, True))),
    _of("relu of ints", torch.relu, INTS),
    _of("bool arithmetic", lambda x: ((x > 0) + (x > 2), (x > 0) * (x < 2))),
    _of("where of bools", lambda x: torch.where(x > 1, x > 2, x < 0)),
    _of("masked_fill of bools", lambda x: (x > 0).masked_fill(x > 2, False)),
    _of("rsub alpha", lambda x: torch.rsub(x, 2, alpha=3)),
    _of("NaN in hardshrink and threshold", lambda x: (F.hardshrink(x / x), F.threshold(x / x, 0.5, -1.0))),
    _of("narrow from the end", lambda x: x.narrow(1, -3, 2)),
    _of("two index tensors", lambda x: x[:, PLACES, PLACES]),
    _of("index tensors apart", lambda x: x[PLACES.clamp(max=0), :, PLACES.view(3, 1)]),
    _of("index tensors, number and None", lambda x: x[0, None, PLACES, :, PLACES[:1]]),
    _of("index tensors behind a slice", lambda x: x[:, 2:6, PLACES, PLACES]),
    _of("scatter_add", lambda x: x.scatter_add(1, torch.zeros(2, 2, 6, 6, dtype=torch.int64), x[:, 2:4]), opset=16),
    _of("repeat_interleave", lambda x: (x.repeat_interleave(2, -1), x.repeat_interleave(3))),
    _of("repeat_interleave of counts", lambda x: x.repeat_interleave(torch.tensor([1, 0, 2, 1, 1, 3]), 2)),
    _of("shifts", lambda i: (i >> 1, i << 2), INTS),
    *(
        _module(nn.AvgPool2d(size, stride, padding, ceil_mode=True, divisor_override=3))
        for size, stride, padding in ((2, 1, 1), (3, 2, 0), (3, 2, 1), (2, 3, 0))
    ),
    _of("big windows rounded up", lambda x: F.avg_pool2d(x, (4, 5), (3, 4), (2, 1), True, True, 7)),
    *(_module(cls(2, 3, ceil_mode=True)) for cls in (nn.MaxPool2d, nn.AvgPool2d)),
    *(_module(nn.AdaptiveAvgPool2d(size)) for size in (4, 7, (4, 2))),
    _of("area", lambda x: F.interpolate(x, (9, 4), mode="area")),
    _of("large output_padding", nn.ConvTranspose2d(8, 4, 3, 1, 1, 1, dilation=2).eval()),
    *_named("any all isfinite signbit", X),
    *(_of(f"{name} of an axis", lambda x, name=name: getattr(x > 2, name)(1, keepdim=True)) for name in ("any", "all")),
    *_named("exp2 expm1 erfc rad2deg positive isposinf", X.clamp(-9, 9)),
    *_named("atan2 hypot logaddexp copysign isclose", X, Y_TIED),
    _of("xlogy", lambda x: torch.xlogy(x.relu(), x.abs() + 1)),
    _of("heaviside", lambda x: torch.heaviside(x, torch.tensor(0.5))),
    _of("lerp", lambda x, y: torch.lerp(x, y, 0.3), X, Y),
    _of("diff", lambda x: (x.diff(dim=1), x.diff(2))),
    _of("rot90", lambda x: (x.rot90(1, (2, 3)), x.rot90(-1, (1, 2)), x.rot90(2, (2, 3)))),
    _of("cumprod", lambda x: (x.cumprod(1), torch.cumprod(x, -1, dtype=torch.float64))),
    _of("cumprod of ints", lambda i: i.cumprod(2), INTS),
    _of("var_mean", lambda x: (*torch.var_mean(x, 1), *torch.std_mean(x, (2, 3), keepdim=True))),
    _of("aminmax", lambda x: (*torch.aminmax(x), *torch.aminmax(x, dim=1))),
    _of("kthvalue", lambda x: (*x.kthvalue(2, 1), torch.kthvalue(x, 3, -1, True)[0])),
    _of("median", lambda x: (x.median(), *torch.median(x, 1), x.median(-1, keepdim=True).values)),
    _of("cummax", lambda x: (*x.cummax(1), *torch.cummin(x, -1))),
    _of("searchsorted", lambda x: torch.searchsorted(torch.tensor([-1.0, 0.0, 0.5]), x, right=True)),
    _of("bucketize", lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.5]), out_int32=True)),
    _of("count_nonzero", lambda x: (x.count_nonzero(), x.count_nonzero(1))),
    _of("nansum", lambda x: (x / x).nansum(1)),
    _of("take_along_dim", lambda x: torch.take_along_dim(x, x.argmax(1, keepdim=True), 1)),
    _of("trace", lambda x: x[0, 0].trace()),
    _of("bilinear", lambda t: F.bilinear(t, t + 1, _weights(3, 16, 16), _weights(3)), T),
    _of("sums of products", lambda t: (torch.addmv(t[0, :, 0], t[0], t[0, 0], beta=2), torch.inner(t, t)), T),
    _of("outer", lambda t: torch.outer(t[0, 0], t[0, 1]), T),
    _of(
        "stacks",
        lambda t: (torch.dstack([t[0], t[1]]), torch.vstack([t[0, 0], t[0]]), torch.column_stack([t[0, 0]])),
        T,
    ),
]


CASES: Sequence[CallCase] = (
    *ARITHMETIC, *ELEMENTS, *ACTIVATIONS, *PRODUCTS, *POOLINGS, *NORMS, *REDUCTIONS, *SHAPES, *MOVEMENTS, *INDEXING,
    *CUSTOM_FREE, *ODD,
)  # fmt: skip
