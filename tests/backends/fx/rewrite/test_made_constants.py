"""Tensors that a forward makes without its input and then writes to are new in each run, as in eager torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.errors import UnsupportedModelError
from tests.support.fx_path import calibrate, run_fake, run_float, run_real

X, OTHER = (torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))


def assigned(y: Tensor) -> Tensor:
    z = torch.empty(6, 4)
    z[:, :2] = y[:, :2]
    z[:, 2:] = y[:, 2:] * 2
    return z


def views(y: Tensor) -> Tensor:
    z = torch.zeros(6, 4)
    z[:, 0].add_(y[:, 0])
    z[:, 1:3].copy_(y[:, 1:3])
    return z


def rows(y: Tensor) -> Tensor:
    z = torch.zeros(4, 4)
    z[0] = y.mean(0)
    z[1] += y.sum(0)
    return y @ z


def numbers(y: Tensor) -> Tensor:
    z = torch.tensor([1.0, 2.0, 3.0, 4.0])
    z[1:3] *= y.mean()
    return y * z


def of_a_list(y: Tensor) -> Tensor:
    z = [torch.zeros(4) for _ in range(3)]
    for index, one in enumerate(z):
        one[index] = y.mean() * index
    return y + torch.stack(z).sum(0)


def masked(y: Tensor) -> Tensor:
    return y + torch.full((4,), -1.0).masked_fill_(y.mean(0) > 0, 0.0)


def as_out(y: Tensor) -> Tensor:
    z = torch.eye(4)
    torch.add(z, y.mean(), out=z)
    return y @ z


CASES = {one.__name__: one for one in (assigned, views, rows, numbers, of_a_list, masked, as_out)}
WITHOUT_EXAMPLE = ("assigned", "masked", "as_out")


class Net(nn.Module):
    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.body = nn.Linear(4, 4), body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.linear(x))


def quantized(name: str, folder: Path, example: Tensor | None) -> nn.Module:
    model = Net(CASES[name]).eval()
    amct.create_quant_config_fx(folder / "c.json", model, input_data=example)
    return amct.create_quant_model_fx(folder / "c.json", model, input_data=example)


@pytest.mark.parametrize(
    ("name", "example"), [*((name, X) for name in CASES), *((name, None) for name in WITHOUT_EXAMPLE)]
)
def test_each_run_begins_anew(name: str, example: Tensor | None, tmp_path: Path) -> None:
    model, found = Net(CASES[name]).eval(), quantized(name, tmp_path, example)
    calibrate(found, [(X,), (OTHER,)])
    for x in (X, OTHER, -X):
        with torch.no_grad():
            assert torch.equal(run_float(found, x), model(x))
        fake = run_fake(found, x)  # sums of integers and of floats may round to neighbours on the next grid
        torch.testing.assert_close(run_real(found, x), fake, rtol=0, atol=float(fake.abs().max()) / 64)
    amct.save_quant_model_fx(found, tmp_path / "n", X)
    session = onnxruntime.InferenceSession(tmp_path / "n_float_model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"x": OTHER.numpy()})[0], model(OTHER), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["views", "rows", "numbers"])
def test_a_view_that_changes_is_refused_without_an_example(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"changes a view of it .* Pass input_data="):
        quantized(name, tmp_path, None)
