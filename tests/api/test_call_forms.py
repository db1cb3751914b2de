"""Ways to call a model: keyword arguments in a dict, unused arguments, ``*args``, dataclasses (spec 1.6, 8.1)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from tests.support import fx_path
from tests.support.log_lines import LogLines

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
MASK = torch.rand(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))


@dataclasses.dataclass
class Pair:
    image: Tensor
    scale: float = 2.0


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.last = nn.Conv2d(4, 4, 1)

    def both(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.conv(x)))


class Masked(Net):
    def forward(self, x: Tensor, scale: float = 1.0, mask: Tensor | None = None) -> Tensor:
        y = self.both(x) * scale
        return y if mask is None else y * mask


class Unused(Net):
    def forward(self, meta: Tensor, image: Tensor) -> Tensor:
        return self.both(image)


class Several(Net):
    def forward(self, *xs: Tensor) -> Tensor:
        return self.both(xs[0] - xs[1])


class Returns(Net):
    def forward(self, x: Tensor) -> Pair:
        return Pair(self.both(x), 3.0)


class Takes(Net):
    def forward(self, pair: Pair) -> Tensor:
        return self.both(pair.image) * pair.scale


CASES: dict[str, tuple[type[Net], Any, list[Tensor]]] = {
    "keywords": (Masked, (X, {"mask": MASK, "scale": 2.0}), [X, MASK]),
    "None": (Masked, (X, 1.0, None), [X]),
    "unused": (Unused, (torch.zeros(1), X), [torch.zeros(1), X]),
    "variadic": (Several, (X, X.flip(0)), [X, X.flip(0)]),
    "returns a dataclass": (Returns, (X,), [X]),
}


def call(model: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
    args, kwargs = (inputs[:-1], inputs[-1]) if isinstance(inputs[-1], dict) else (inputs, {})
    with torch.no_grad():
        result = model(*args, **kwargs)
    return result.image if isinstance(result, Pair) else result


@pytest.mark.parametrize(("kind", "inputs", "tensors"), CASES.values(), ids=CASES.keys())
def test_fx_path_takes_the_call(kind: type[Net], inputs: Any, tensors: list[Tensor], tmp_path: Path) -> None:
    model, config = kind().eval(), tmp_path / "c.json"
    expected = call(model, inputs)
    amct.create_quant_config_fx(config, model, input_data=inputs)
    quantized = amct.create_quant_model_fx(config, model, input_data=inputs)
    assert torch.equal(call(quantized, inputs), expected)
    amct.enable_quantization(quantized, calibration=True)
    call(quantized, inputs)
    amct.enable_quantization(quantized, real_quant=True)
    assert abs(call(quantized, inputs) - expected).max() <= 0.05 * abs(expected).max()
    amct.save_quant_model_fx(quantized, tmp_path / "out" / "n", inputs, golden_inputs=inputs)
    [found] = fx_path.run_onnx(tmp_path / "out" / "n_float_model.onnx", *tensors)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)
    report = amct.check_model(quantized, inputs)
    assert report.multiplications is not None


@pytest.mark.parametrize(("kind", "inputs", "tensors"), CASES.values(), ids=CASES.keys())
def test_check_model_takes_the_call(kind: type[Net], inputs: Any, tensors: list[Tensor]) -> None:
    report = amct.check_model(kind().eval(), inputs)
    assert report.problems == ()
    assert report.multiplications is not None


@pytest.mark.parametrize(("kind", "inputs", "tensors"), CASES.values(), ids=CASES.keys())
def test_dynamic_path_takes_the_call(
    kind: type[Net], inputs: Any, tensors: list[Tensor], tmp_path: Path, log_lines: LogLines
) -> None:
    model = kind().eval()
    expected = call(model, inputs)
    amct.create_quant_config(tmp_path / "config.json", model, inputs)
    quantized = amct.quantize_model(tmp_path / "config.json", tmp_path / "m.onnx", tmp_path / "r.txt", model, inputs)
    call(quantized, inputs)
    read = tensors[1:] if kind is Unused else tensors
    [found] = fx_path.run_onnx(tmp_path / "m.onnx", *read)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)
    lines = [line for line in log_lines.warnings if "No output depends on 'meta'" in line]
    assert bool(lines) is (kind is Unused)


def test_object_with_tensors_is_refused_as_input(tmp_path: Path) -> None:
    with pytest.raises(amct.UnsupportedModelError, match="input_data holds a Pair, an object with tensors"):
        amct.create_quant_config_fx(tmp_path / "c.json", Takes().eval(), input_data=(Pair(X),))


class Untaken(Net):
    """A change through a view that is not known, which the FX path refuses."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.as_strided((2, 2), (2, 1)).mul_(2)
        return self.last(y)


class Unwritable(Net):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(self.both(x))


@pytest.mark.parametrize(
    ("kind", "text"),
    [(Untaken, "which shares its memory and is read later"), (Unwritable, "bessel_j0")],
    ids=["refused", "not exportable"],
)
def test_check_model_reports_a_refusal(kind: type[Net], text: str) -> None:
    report = amct.check_model(kind().eval(), X)
    assert not report.is_static_path_possible
    assert text in report.problems[0].error
    assert text in str(report)
