"""Calls whose result depends on the size of a dynamic axis compute what eager does at other sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from tests.support.fx_path import calibrate

X = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "square root by power": lambda x: x / x.shape[1] ** 0.5,
    "negative power": lambda x: x * x.shape[1] ** -0.5,
    "square root": lambda x: x / math.sqrt(x.shape[1]),
    "roll": lambda x: x.roll(1, 1),
    "roll backwards": lambda x: x.roll((-5, 2), (1, 2)),
    "sort": lambda x: x.sort(1)[0],
    "tensor of sizes": lambda x: x / torch.tensor([x.shape[1], 6.5]).sum(),
    "tensor of rows of sizes": lambda x: (
        x * torch.tensor([[x.shape[1] - 1, 2], [3, x.shape[0] * 2]], dtype=x.dtype).sum()
    ),
    "tensor of one size": lambda x: x + torch.tensor(x.size(1)),
    "as_tensor of a shape": lambda x: x / torch.as_tensor(x.shape).prod(),
    "new_tensor of a half": lambda x: x * x.new_tensor([x.shape[1] / 2]),
    "argsort": lambda x: x.argsort(1, descending=True).float(),
}


class Net(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.call = nn.Linear(6, 3), call

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), self.call(x)


def saved(call: Callable[[Tensor], Tensor], folder: Path) -> onnxruntime.InferenceSession:
    model = Net(call).eval()
    amct.create_quant_config_fx(folder / "c.json", model, input_data=X)
    quantized = amct.create_quant_model_fx(folder / "c.json", model, input_data=X)
    calibrate(quantized, [(X,)])
    amct.save_quant_model_fx(quantized, folder / "n", X, {"dynamic_axes": {"x": {0: "batch", 1: "tokens"}}})
    return onnxruntime.InferenceSession(folder / "n_float_model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("call", CASES.values(), ids=CASES)
def test_other_sizes(call: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    session = saved(call, tmp_path)
    for size in ((2, 4, 6), (3, 5, 6), (1, 1, 6), (2, 9, 6)):
        x = torch.randn(size, generator=torch.Generator().manual_seed(1))
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[1], call(x).numpy(), rtol=1e-6)


def test_a_size_that_is_counted_out_becomes_static(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    session = saved(lambda x: x.cumprod(1), tmp_path)
    assert session.get_inputs()[0].shape == ["batch", 4, 6]
    assert "Axis 1 of input 'x' ('tokens') is not dynamic in the files: 'cumprod'" in caplog.text
