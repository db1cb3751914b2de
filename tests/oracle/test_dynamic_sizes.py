"""Dynamic axes: files are right for other sizes than the example has, or the axis is static and a WARNING says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.trace.capture import trace
from hotwheels.amct_pytorch.ops.registry import Registry
from tests.support.log_lines import LogLines, log_lines
from tests.support.whole_way import PATHS, take

__all__ = ["log_lines"]
AXES = {"x": {0: "n", 2: "h", 3: "w"}}
Body = Callable[[Tensor], Any]


class Model(nn.Module):
    body: Body

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return type(self).body(self.first(x))


def model_of(body: Body) -> nn.Module:
    return type("Net", (Model,), {"body": staticmethod(body)})().eval()


def image(count: int, height: int = 8, width: int = 8) -> Tensor:
    return torch.randn(count, 3, height, width)


# Functions whose exported form holds a size of the example, and the axes which that makes static.
TAKEN: dict[str, tuple[Body, dict[int, int]]] = {
    "cumprod": (lambda y: (y * 0.3).cumprod(-1), {3: 8}),
    "windows_of_several_sizes": (lambda y: F.adaptive_avg_pool2d(y, 3), {2: 8, 3: 8}),
    "loop": (lambda y: sum(part for part in y.split(4, 2)), {2: 8}),
    "loop_over_the_batch": (lambda y: torch.stack([one * 2 for one in y.unbind(0)]), {0: 2}),
}


@pytest.mark.parametrize("case", TAKEN.values(), ids=TAKEN)
def test_axis_whose_size_the_exporter_takes_is_static(
    case: tuple[Body, dict[int, int]], tmp_path: Path, log_lines: LogLines
) -> None:
    body, fixed = case
    take(model_of(body), [(image(2),)], "dynamic", tmp_path, AXES)
    for file in tmp_path.glob("*.onnx"):
        shape = onnxruntime.InferenceSession(file).get_inputs()[0].shape
        assert shape == [fixed.get(axis, size) for axis, size in enumerate(["n", 3, "h", "w"])], file
    lines = [line for line in log_lines.warnings if "is not dynamic in the files" in line]
    labels = [re.search(r"Axis (?:\d of input 'x' \()?'(\w)'", line) for line in lines]
    assert sorted(found[1] for found in labels if found) == sorted("nchw"[axis] for axis in fixed)


RIGHT: dict[str, Body] = {
    "shapes": lambda y: y.flatten(2).softmax(-1).view(y.shape) + torch.arange(y.shape[-1]),
    "half": lambda y: y[:, :, : y.shape[2] // 2],
    "resize": lambda y: F.interpolate(y, scale_factor=2.0, mode="bilinear"),
    "nearest_exact": lambda y: F.interpolate(y, scale_factor=1.5, mode="nearest-exact"),
}


@pytest.mark.parametrize("path", PATHS[1:])
@pytest.mark.parametrize("body", RIGHT.values(), ids=RIGHT)
def test_right_axes_stay_dynamic(body: Body, path: str, tmp_path: Path) -> None:
    take(model_of(body), [(image(2),), (image(3, 12, 16),)], path, tmp_path, AXES)


def test_roll_by_a_number_computed_from_sizes_is_right_for_every_size(tmp_path: Path) -> None:
    model = model_of(lambda y: y.roll(y.shape[-1] // 2, -1))
    take(model, [(image(2),), (image(3, 12, 16),)], PATHS[1], tmp_path, AXES)


def test_call_that_the_exporter_writes_for_one_size_is_static_on_the_fx_path(
    tmp_path: Path, log_lines: LogLines
) -> None:
    take(model_of(TAKEN["windows_of_several_sizes"][0]), [(image(2),)], PATHS[1], tmp_path, AXES)
    shape = onnxruntime.InferenceSession(tmp_path / "net_float_model.onnx").get_inputs()[0].shape
    assert shape == ["n", 3, 8, 8]
    assert [line for line in log_lines.warnings if "Axis 'h' of 'x' is not dynamic" in line]


def test_loop_over_parts_is_refused_or_checked_on_the_fx_path() -> None:
    leaves = Registry().leaf_packages
    with pytest.raises(amct.UnsupportedModelError, match="something else for each batch size"):
        trace(model_of(TAKEN["loop_over_the_batch"][0]), leaves, inputs=(image(2),))
    model = model_of(TAKEN["loop"][0])
    graph = trace(model, leaves, inputs=(image(2),))
    assert torch.equal(graph(image(3) * 0 + 1), model(image(3) * 0 + 1))
    with pytest.raises(amct.UnsupportedModelError, match="It was 2 when the model was traced and is 4 now"):
        graph(image(2, 16))
