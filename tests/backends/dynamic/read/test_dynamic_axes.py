"""Files of the dynamic path with dynamic axes are written by the writer and compute what eager does at other sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.dynamic.read import export
from hotwheels.amct_pytorch.errors import ExportError
from tests.support.dynamic_path import Files, calibrated

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCH = {"x": {0: "n"}, "output": {0: "n"}}
IMAGE = {"x": {0: "n", 2: "h", 3: "w"}, "output": {0: "n", 2: "h", 3: "w"}}


class Net(nn.Module):
    """A convolution in front of ``body``, which gets the module and the convolution's result."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.linear, self.body = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Linear(4, 4),
            body,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, self.norm(self.conv(x)).relu())


def by_batch(self: Any, x: Tensor) -> Tensor:
    return self.linear(x.mean((2, 3)).reshape(x.shape[0], -1))


def tokens(self: Any, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    x = self.linear(x.flatten(2).transpose(1, 2))
    scores = (x @ x.transpose(1, 2) * c**-0.5).softmax(-1)
    return (scores @ x).transpose(1, 2).reshape(b, c, h, w)


def patches(self: Any, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1)
    return self.linear(x).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)


def positions(self: Any, x: Tensor) -> Tensor:
    x = x + torch.arange(x.shape[3], dtype=torch.float32) + torch.zeros(x.shape[0], 1, x.size(2), 1)
    return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def normalized(self: Any, x: Tensor) -> Tensor:
    h, w = x.shape[2:]
    grid = self.linear(x.permute(0, 2, 3, 1))[..., :2] / torch.tensor([w, h], dtype=x.dtype)
    return grid * x.new_tensor([[h - 1, w / 2]])


CASES: dict[str, tuple[Callable[[Any, Tensor], Tensor], Mapping[str, Any], tuple[tuple[int, ...], ...]]] = {
    "batch": (by_batch, BATCH, ((1, 3, 8, 8), (5, 3, 8, 8))),
    "batch and image": (by_batch, {"x": [0, 2, 3]}, ((1, 3, 6, 9), (3, 3, 16, 4))),
    "tokens": (tokens, IMAGE, ((1, 3, 6, 9), (3, 3, 16, 4))),
    "patches": (patches, IMAGE, ((1, 3, 6, 10), (3, 3, 16, 4))),
    "tensors of sizes": (normalized, IMAGE, ((1, 3, 6, 9), (3, 3, 16, 4))),
    "positions": (positions, IMAGE, ((1, 3, 6, 9), (3, 3, 16, 4))),
}


@pytest.fixture
def no_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("torch's exporter was called")

    monkeypatch.setattr(export, "export_onnx", forbidden)


@pytest.fixture
def only_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise ExportError("only the exporter")

    monkeypatch.setattr(export, "_written", refused)


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.usefixtures("no_exporter")
@pytest.mark.parametrize("name", CASES)
def test_other_sizes(name: str, tmp_path: Path) -> None:
    body, axes, sizes = CASES[name]
    model = Net(body).eval()
    quantized, files = calibrated(model, tmp_path, [(X,)], dynamic_axes=axes)
    files.save()
    for size in sizes:
        x = torch.randn(size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = {files.onnx: model(x), files.fake_quant: quantized(x)}
        for path, wanted in expected.items():
            found = session(path).run(None, {"x": x.numpy()})[0]
            # Float sums in another order; one such sum next to a tie moves a value by a step of an 8-bit grid.
            step = 1e-5 if path == files.onnx else float(wanted.abs().max()) / 64
            np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=step)


def described(files: Files) -> tuple[list[tuple[str, str]], list[tuple[str, list[Any]]]]:
    graph = onnx.load(str(files.onnx)).graph
    layers = [(one.name, one.op_type) for one in graph.node if one.op_type in ("Conv", "Gemm", "MatMul", "Relu")]
    return layers, [
        (value.name, [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim])
        for value in graph.input
    ]


@pytest.mark.parametrize("name", ["batch", "tokens"])
def test_names_and_record_are_those_of_the_exporter(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    body, axes, _ = CASES[name]
    model, found = Net(body).eval(), []
    for folder in ("writer", "exporter"):
        if folder == "exporter":
            request.getfixturevalue("only_exporter")
        (tmp_path / folder).mkdir()
        _, files = calibrated(model, tmp_path / folder, [(X,)], dynamic_axes=axes)
        found.append((*described(files), files.config.read_text(), files.record))
    assert found[0] == found[1]


@pytest.mark.usefixtures("no_exporter")
def test_a_size_that_decides_becomes_static(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def decides(self: Any, x: Tensor) -> Tensor:
        if x.shape[2] == 8:
            x = x * 2
        return self.linear(x.mean((2, 3)))

    _, files = calibrated(Net(decides).eval(), tmp_path, [(X,)], dynamic_axes={"x": {0: "n", 2: "h"}, "output": [0]})
    assert session(files.onnx).get_inputs()[0].shape == ["n", 3, 8, 8]
    assert "Axis 2 of input 'x' ('h') is not dynamic in the files: " in caplog.text
    assert "test_dynamic_axes.py:" in caplog.text and "if x.shape[2] == 8:" in caplog.text


def test_an_axis_that_the_input_does_not_have_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, files = calibrated(Net(by_batch).eval(), tmp_path, [(X,)], dynamic_axes={"x": {7: "n", -4: "m"}})
    assert session(files.onnx).get_inputs()[0].shape == ["m", 3, 8, 8]
    assert "dynamic_axes: axis 7 of 'x' is ignored, which has 4 axes." in caplog.text


@pytest.mark.usefixtures("no_exporter")
def test_outputs_have_the_labels_of_the_user(tmp_path: Path) -> None:
    _, files = calibrated(
        Net(tokens).eval(), tmp_path, [(X,)], dynamic_axes={"x": {0: "n"}, "output": {0: "m", 1: "c"}}
    )
    assert session(files.onnx).get_outputs()[0].shape == ["m", 4, 8, 8]
