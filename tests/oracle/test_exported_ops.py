"""What torch's exporter writes for an operator, in float64, against torch in float64."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hotwheels.amct_pytorch.oracle.interpreter import Interpreter

IMAGE, TOKENS = (2, 6, 5, 7), (2, 4, 6)


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> object:
        return self.function(*inputs)


class First(nn.Module):
    """The first result of a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x)[0]


@dataclasses.dataclass(frozen=True)
class Case:
    id: str
    module: nn.Module
    shapes: tuple[tuple[int, ...], ...] = (IMAGE,)
    opsets: tuple[int, ...] = (13, 17, 20)


def call(name: str, function: Callable[..., object], *shapes: tuple[int, ...], opsets: tuple[int, ...] = ()) -> Case:
    return Case(name, Call(function), shapes or (IMAGE,), opsets or (13, 20))


def resize(mode: str, **arguments: object) -> Case:
    name = f"interpolate {mode} {arguments}"
    return call(name, lambda x: F.interpolate(x, mode=mode, **arguments), opsets=(13, 18))


def sample(mode: str, padding: str, is_aligned: bool) -> Case:
    def function(x: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        return F.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=is_aligned)

    return call(f"grid_sample {mode} {padding} {is_aligned}", function, IMAGE, (2, 3, 4, 2), opsets=(16, 20))


def norm(module: nn.Module) -> nn.Module:
    """Affine values and statistics other than the neutral ones."""
    generator = torch.Generator().manual_seed(3)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            module.state_dict()[name].copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return module


ACTIVATIONS = [
    *(nn.ReLU(), nn.ReLU6(), nn.Sigmoid(), nn.Tanh(), nn.LeakyReLU(0.2), nn.PReLU(6), nn.GELU(), nn.GELU("tanh")),
    *(nn.Softmax(1), nn.Softmax2d(), nn.LogSoftmax(-1), nn.ELU(1.5), nn.LogSigmoid(), nn.Softmin(1), nn.Tanhshrink()),
    *(nn.GLU(1), nn.Hardswish(), nn.SiLU(), nn.Mish(), nn.Hardtanh(-0.5, 2), nn.Softsign(), nn.Hardsigmoid()),
    *(nn.Softplus(), nn.SELU(), nn.CELU(0.7)),
]
CASES = [
    *(Case(str(module), module) for module in ACTIVATIONS),
    *(
        Case(str(module), norm(module))
        for module in (
            nn.BatchNorm2d(6),
            nn.LayerNorm(7),
            nn.LayerNorm((5, 7)),
            nn.GroupNorm(3, 6),
            nn.InstanceNorm2d(6),
        )
    ),
    Case("Conv2d", nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2)),
    Case("Conv2d reflect", nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect")),
    Case("ConvTranspose2d", nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2)),
    Case("Linear", nn.Linear(6, 3), (TOKENS,)),
    Case("Linear 2d", nn.Linear(6, 3), ((4, 6),)),
    Case("Conv1d", nn.Conv1d(4, 3, 2, padding=1), (TOKENS,)),
    Case("MaxPool2d", nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    Case("AvgPool2d", nn.AvgPool2d(3, 2, 1, ceil_mode=False)),
    Case("AvgPool2d without padding", nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    Case("AdaptiveAvgPool2d", nn.AdaptiveAvgPool2d(1)),
    Case("AdaptiveAvgPool2d 5x1", nn.AdaptiveAvgPool2d((5, 1))),
    Case("AdaptiveMaxPool2d", nn.AdaptiveMaxPool2d((1, 1))),
    *(
        call(
            f"affine_grid {size} {aligned}",
            lambda x, size=size, aligned=aligned: F.affine_grid(x, size, align_corners=aligned),
            (2, len(size) - 2, len(size) - 1),
            opsets=(20,),
        )
        for size in ([2, 3, 4, 5], [2, 1, 1, 3], [2, 3, 4, 3, 2])
        for aligned in (False, True)
    ),
    call("arithmetic", lambda a, b: (a + b) * a - a / b, IMAGE, (6, 1, 1)),
    call("scalars", lambda x: (2 - x) * 0.3 + x / 7),
    call("pow", lambda x: x**2 + x.abs() ** 1.7 + x**3),
    call("clamp", lambda x: x.clamp(min=-0.2) + x.clamp(-1, 0.4)),
    call("unary", lambda x: x.abs().sqrt() + x.exp().log() + x.floor() - x.round() + x.sign() + x.sin() + x.erf()),
    call("sum mean", lambda x: x.sum(1, keepdim=True) + x.mean((2, 3), keepdim=True)),
    call("max min", lambda x: x.max(1, keepdim=True)[0] - x.min(1, keepdim=True)[0]),
    call("two-tensor max min", lambda a, b: torch.max(a, b) * torch.minimum(a, b), IMAGE, IMAGE),
    call("max of all", lambda x: x.max() + x.min() + x.sum() + x.mean()),
    call("var std", lambda x: x.var(1, unbiased=False) + x.std(1)),
    call("norm", lambda x: F.normalize(x, dim=1) + x.norm(dim=1, keepdim=True)),
    call("argmax", lambda x: x.argmax(1)),
    call("topk", lambda x: x.topk(3, dim=1)[0]),
    call("permute", lambda x: x.permute(0, 2, 3, 1).transpose(1, 2)),
    call("cat stack", lambda a, b: torch.stack([torch.cat([a, b], 1), torch.cat([b, a], 1)], 0), IMAGE, IMAGE),
    call("split", lambda x: x.split([1, 2, 3], 1)[1] * x.chunk(3, 1)[2]),
    call("shape ops", lambda x: x.flatten(2).unsqueeze(1).squeeze(1).reshape(x.shape[0], -1).view(-1, 7)),
    call("slices", lambda x: x[:, 1:5:2, ..., -3:] + x[:, :2, 1:2, ::3]),
    call("gather", lambda x: x[:, torch.tensor([2, 0, -1])] + torch.index_select(x, 1, torch.tensor([1, 1, 1]))),
    call("roll flip", lambda x: torch.roll(x, (1, 2), (2, 3)) + x.flip(3)),
    call("expand repeat", lambda x: x[:, :1].expand(-1, 6, -1, -1) + x.mean(1, keepdim=True).repeat(1, 6, 1, 1)),
    call("pad", lambda x: F.pad(F.pad(x, (1, 2, 0, 1), value=0.5), (1, 1, 1, 1), mode="reflect")),
    call("crop", lambda x: F.pad(x, (-1, 1, -2, 0))),
    call("where", lambda x: torch.where(x > 0.1, x, -x) + (x <= 0).float() + x.masked_fill(x < 0, -3.0)),
    call("arange", lambda x: x + torch.arange(x.shape[-1], dtype=x.dtype)),
    call("zeros", lambda x: x + torch.zeros_like(x) + torch.ones(x.shape[2], 1, dtype=x.dtype)),
    call("tril", lambda x: torch.tril(x), opsets=(14, 20)),
    call("cumsum", lambda x: x.cumsum(1)),
    call("einsum", lambda a, b: torch.einsum("bnc,bmc->bnm", a, b), TOKENS, TOKENS),
    call("pixel shuffle", lambda x: F.pixel_shuffle(x, 2), (1, 8, 3, 2)),
    call("pixel unshuffle", lambda x: F.pixel_unshuffle(x, 2), (1, 2, 6, 4)),
    call("matmul", lambda a, b: a @ b.transpose(1, 2), TOKENS, TOKENS),
    call(
        "attention", lambda q, k: F.scaled_dot_product_attention(q, k, k), (2, 2, 4, 6), (2, 2, 4, 6), opsets=(14, 20)
    ),
    *(
        Case(str(module), First(module), ((5, 2, 4),))
        for module in (
            nn.RNN(4, 3),
            nn.RNN(4, 3, nonlinearity="relu", bias=False),
            nn.LSTM(4, 3, num_layers=2, bidirectional=True),
            nn.GRU(4, 3, bidirectional=True),
        )
    ),
    resize("nearest", scale_factor=2),
    resize("nearest", size=(7, 11)),
    resize("bilinear", scale_factor=2, align_corners=False),
    resize("bilinear", size=(9, 4), align_corners=False),
    resize("bilinear", size=(9, 4), align_corners=True),
    resize("bicubic", scale_factor=2, align_corners=False),
    resize("bicubic", size=(9, 4), align_corners=True),
    *(sample("nearest", padding, True) for padding in ("zeros", "border", "reflection")),
    *(sample("bilinear", padding, False) for padding in ("zeros", "border", "reflection")),
    *(sample("bicubic", padding, True) for padding in ("zeros", "border", "reflection")),
]


def export(module: nn.Module, inputs: tuple[torch.Tensor, ...], opset: int, folder: Path) -> onnx.ModelProto:
    names = [f"input_{at}" for at in range(len(inputs))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = io.BytesIO()
        torch.onnx.export(module, inputs, stream, opset_version=opset, input_names=names, dynamo=False)
    model = onnx.load_model_from_string(stream.getvalue())
    onnx.save(model, folder / "P_deploy_model.onnx")
    (folder / "P_quant_param_record.txt").write_text("".join(map(float_layer, float_nodes(model))))
    return model


def float_nodes(model: onnx.ModelProto) -> list[tuple[str, int]]:
    constants = {one.name for one in model.graph.initializer}
    counts = [
        (node.name, sum(bool(name) and name not in constants for name in node.input)) for node in model.graph.node
    ]
    return [(name, count) for name, count in counts if count]


def float_layer(node: tuple[str, int]) -> str:
    inputs = "input { data_type: F16 scale: 1 offset: 0 } " * node[1]
    return f'layer {{ name: "{node[0]}" quant_param {{ {inputs} }} }}\n'


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_exported_operator_is_torchs(case: Case, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(7)
    inputs = tuple(torch.randn(shape, generator=generator) for shape in case.shapes)
    module = case.module.eval()
    with torch.no_grad():
        expected = module.double()(*(one.double() for one in inputs)).numpy()
    module.float()
    for opset in case.opsets:
        model = export(module, inputs, opset, tmp_path)
        net = Interpreter(tmp_path / "P_deploy_model.onnx", tmp_path / "P_quant_param_record.txt")
        feeds = {f"input_{at}": one.numpy() for at, one in enumerate(inputs)}
        (found,) = net.run(feeds).outputs.values()
        ops = [node.op_type for node in model.graph.node]
        assert found.shape == expected.shape, (opset, ops)
        # The file holds float32 constants, and the result is a float32; places that a constant moves are 1e-7 off.
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-6, err_msg=f"opset {opset}: {ops}")
