"""Sizes that depend on data are computed in the files of the dynamic path, or a WARNING has the line that reads one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.dynamic.read import export
from hotwheels.amct_pytorch.errors import ExportError
from tests.support.dynamic_path import calibrated

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
OTHERS = [torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(1, 6)]


class Net(nn.Module):
    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.linear(x))


def picked(y: Tensor) -> Tensor:
    return y[y.sum(1) > 0]


def experts(y: Tensor) -> Tensor:
    out = torch.zeros_like(y)
    for number in (0, 1):
        rows = torch.where((y[:, 0] > 0) == bool(number))[0]
        out = out.index_add(0, rows, y[rows] * (number + 1))
    return out


COMPUTED: dict[str, Callable[[Tensor], Tensor]] = {
    "mean of picked rows": lambda y: picked(y).sum(0) / picked(y).shape[0],
    "reshaped": lambda y: picked(y).reshape(-1, 2, 2).flatten(1),
    "viewed by its sizes": lambda y: picked(y).view(picked(y).size(0), 2, 2).softmax(-1),
    "masked_select": lambda y: y.masked_select(y > 0).mean(),
    "ones of its size": lambda y: picked(y) @ y.new_ones(4, 3) + torch.ones(picked(y).shape[0], 1),
    "expanded": lambda y: picked(y).expand(2, *picked(y).shape),
    "unique": lambda y: torch.unique(y.round()).numel() * y,
    "repeated by data": lambda y: torch.repeat_interleave(y, (y[:, 0] > 0).long() + 1, 0).cumsum(0),
    "a mixture of experts": experts,
}
READ: dict[str, Callable[[Tensor], Tensor]] = {
    "len": lambda y: y.sum(0) / len(torch.nonzero(y[:, 0] > 0)),
    "len of where": lambda y: y.sum(0) / len(torch.where(y[:, 0] > 0)[0]),
    "len of repeated rows": lambda y: y.sum(0) / len(torch.repeat_interleave(y, (y[:, 0] > 0).long() + 1, 0)),
    "int": lambda y: y.sum(0) / int(picked(y).shape[0]),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_sizes_are_computed(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quantized, files = calibrated(Net(COMPUTED[name]).eval(), tmp_path, [(X,)])
    files.save()
    session = onnxruntime.InferenceSession(files.fake_quant, providers=["CPUExecutionProvider"])
    for x in (X, *OTHERS):
        with torch.no_grad():
            expected = quantized(x).numpy()
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert "hold a value of input_data" not in caplog.text


@pytest.mark.parametrize("name", READ)
def test_a_size_read_in_python_is_told(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calibrated(Net(READ[name]).eval(), tmp_path, [(X,)])
    assert "hold a value of input_data as a constant" in caplog.text
    assert "test_sizes_of_data.py:" in caplog.text


def test_what_the_exporter_refuses_is_written_for_the_example_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object) -> None:
        raise ExportError("refused by the test")

    monkeypatch.setattr(export, "export_onnx", refuse)
    _, files = calibrated(Net(picked).eval(), tmp_path, [(X,)])
    assert "return y[y.sum(1) > 0]" in caplog.text
    session = onnxruntime.InferenceSession(files.onnx, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = Net(picked).eval()(X).numpy()
    np.testing.assert_allclose(session.run(None, {"x": X.numpy()})[0], expected, rtol=1e-5, atol=1e-6)
