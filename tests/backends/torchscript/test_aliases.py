"""Changes in place change every tensor that shares the memory, in the exported file as in torch."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.torchscript.aliases import FollowedAliases
from hotwheels.amct_pytorch.errors import ExportError

Program = Callable[[Tensor], Any]


class Traced(nn.Module):
    """Runs ``program`` on the result of an operation."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program

    def forward(self, x: Tensor) -> Any:
        with FollowedAliases():
            return self.program(x + 0.5)


def export(program: Program, x: Tensor) -> bytes:
    file = io.BytesIO()
    with torch.no_grad():
        torch.onnx.export(
            Traced(program), (x,), file, dynamo=False, opset_version=18, input_names=["x"], dynamic_axes={"x": [0]}
        )
    return file.getvalue()


def assert_follows(program: Program) -> onnx.ModelProto:
    """Demands that the file computes what torch does, on another input and batch size, too; returns the file."""
    example, other = torch.randn(2, 3, 4, 6), torch.randn(5, 3, 4, 6)
    content = export(program, example)
    session = onnxruntime.InferenceSession(content)
    for x in (example, other):
        expected = program(x + 0.5)
        found = session.run(None, {"x": x.numpy()})
        for left, right in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
            np.testing.assert_allclose(left, right.numpy(), rtol=1e-6, atol=1e-6)
    return onnx.load_from_string(content)


def changed(change: Callable[[Tensor], Any]) -> Program:
    """The program that returns a tensor behind a change of its parts, and a view of it made before."""

    def program(h: Tensor) -> tuple[Tensor, Tensor]:
        before = h.flatten(1)
        change(h)
        return h * 2, before + 1

    return program


def augment(h: Tensor) -> None:
    part = h[:, 1]
    part *= 3


def twice(h: Tensor) -> None:
    h.transpose(1, 2)[:, :2].add_(1)
    h[:, :, -1:].mul_(h[:, :, :1])


def through_out(h: Tensor) -> None:
    torch.add(h[:, 0], 1.0, out=h[:, 0])


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "the tensor itself": lambda h: h.mul_(2),
    "slice": lambda h: h[:, :2].sigmoid_(),
    "slice in the middle": lambda h: h[:, 1:2].sigmoid_(),
    "slice to the end": lambda h: h[:, 1:].sigmoid_(),
    "slice with a step": lambda h: h[..., ::2].sigmoid_(),
    "two axes": lambda h: h[:, 1:, :2].sigmoid_(),
    "index": lambda h: h[:, 1].sigmoid_(),
    "last index": lambda h: h[..., -1].sigmoid_(),
    "chunk": lambda h: h.chunk(2, 2)[0].sigmoid_(),
    "split": lambda h: h.split([1, 2], 1)[1].sigmoid_(),
    "tensor_split": lambda h: h.tensor_split(3, 3)[2].sigmoid_(),
    "unbind": lambda h: h.unbind(1)[0].add_(1),
    "narrow": lambda h: h.narrow(3, 1, 2).add_(1),
    "select": lambda h: h.select(2, 1).add_(1),
    "view": lambda h: h.view(h.shape[0], -1).mul_(2),
    "part of a view": lambda h: h.view(h.shape[0], -1)[:, 5:9].mul_(2),
    "reshape": lambda h: h.reshape(h.shape[0], 6, 12).mul_(2),
    "flatten": lambda h: h.flatten(2).clamp_(min=0),
    "unflatten": lambda h: h.unflatten(3, (2, 3))[..., 0, :].mul_(2),
    "permute": lambda h: h.permute(0, 2, 3, 1).add_(1),
    "transpose": lambda h: h.transpose(1, 3).add_(torch.arange(3.0)),
    "mT": lambda h: h.mT.add_(1),
    "movedim": lambda h: h.movedim(1, 3)[..., 0].add_(1),
    "squeeze": lambda h: h[:, 1:2].squeeze(1).add_(1),
    "unsqueeze": lambda h: h.unsqueeze(1).add_(1),
    "diagonal": lambda h: h.diagonal(0, 2, 3).zero_(),
    "detach": lambda h: h.detach().add_(1),
    "data": lambda h: h.data.mul_(2),
    "data of a part": lambda h: h[:, 0].data.mul_(2),
    "augmented assignment": augment,
    "several": twice,
    "item assignment to a view": lambda h: h.permute(0, 2, 3, 1).__setitem__((..., 0), 7.0),
    "masked": lambda h: h.permute(0, 2, 3, 1).masked_fill_(h.permute(0, 2, 3, 1) > 0, 2.0),
    "copy": lambda h: h[:, 0].copy_(h[:, 1]),
    "copy that broadcasts": lambda h: h[:, :2].copy_(h[:, 2:]),
    "function with inplace": lambda h: torch.nn.functional.relu(h[:, 0], inplace=True),
    "out": through_out,
    "relative of another": lambda h: h.permute(0, 2, 3, 1).add_(h.transpose(1, 2).permute(0, 1, 3, 2)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_change_reaches_all_relatives(change: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    assert_follows(changed(change))


def test_copies_are_no_relatives() -> None:
    def program(h: Tensor) -> tuple[Tensor, Tensor]:
        copy = h.permute(0, 2, 3, 1).contiguous()
        copy.add_(1)
        return h * 2, copy + h.clone().mul_(3).permute(0, 2, 3, 1)

    assert_follows(program)


def test_change_behind_a_change_sees_it() -> None:
    def program(h: Tensor) -> Tensor:
        first, second = h.chunk(2, 2)
        first.add_(second)
        second.mul_(first)
        h[:, 0].add_(1)
        return first * second

    assert_follows(program)


def test_data_is_no_constant() -> None:
    model = assert_follows(lambda h: h.data * 2)
    assert [node.op_type for node in model.graph.node if node.op_type != "Constant"] == ["Add", "Mul"]


def test_change_without_relatives_leaves_no_node() -> None:
    model = assert_follows(lambda h: h.mul_(2).add_(1))
    assert [node.op_type for node in model.graph.node if node.op_type != "Constant"] == ["Add", "Mul", "Add"]


class _Alias(torch.autograd.Function):
    """An autograd function, which the tracer cannot follow, returns its argument's memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return x.view_as(x)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Identity", x)


def test_relative_of_unknown_origin_is_refused() -> None:
    def program(h: Tensor) -> Tensor:
        other = _Alias.apply(h)
        other[:, 0].flatten().view(-1)
        h[:, 1].add_(1)
        return other

    with pytest.raises(ExportError, match="changed in place and shares its memory"):
        export(program, torch.randn(2, 3, 4, 6))
