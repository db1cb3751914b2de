"""In-place changes in users' code: computed as in eager mode in every mode and file, or refused with the line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct

Change = Callable[[Tensor], Any]


class Net(nn.Module):
    def __init__(self, change: Change) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.change = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), change

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        result = self.change(h)
        return self.b(h if result is None else result)


def number(h: Tensor) -> None:
    h[:, 0] = 0


def part(h: Tensor) -> None:
    h[:, 2:5] = h[:, :3] * 2


def augmented_part(h: Tensor) -> None:
    h[:, :4] += 1


def masked(h: Tensor) -> None:
    h[h > 1] = 1.0


def augmented_selection(h: Tensor) -> None:
    h[:, [0, 2]] *= 3


def name(h: Tensor) -> Tensor:
    y = h
    y *= 2
    return h + y


def copied(h: Tensor) -> None:
    h.copy_(h * 2)


def filled(h: Tensor) -> Tensor:
    h.fill_(0.5)
    return h * 2


def into_itself(h: Tensor) -> None:
    torch.mul(h, 2, out=h)


def permuted(h: Tensor) -> None:
    tokens = h.permute(0, 2, 3, 1)
    tokens += 1


def chunk(h: Tensor) -> None:
    h.chunk(2, 1)[0].sigmoid_()


def view(h: Tensor) -> None:
    h.view(h.shape[0], -1).mul_(2)


def strided(h: Tensor) -> None:
    h.as_strided((2, 4), (16, 2)).mul_(2)


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("with_example", [True, False], ids=["guided", "stock"])
@pytest.mark.parametrize(
    "change",
    [number, part, augmented_part, masked, augmented_selection, name, copied, filled, into_itself]
    + [permuted, chunk, view],
)
def test_change_in_place_is_computed_in_every_mode_and_file(change: Change, with_example: bool, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x = Net(change).eval(), images()
    example = x if with_example else None
    amct.create_quant_config_fx(tmp_path / "c.json", model, input_data=example)
    quantized = amct.create_quant_model_fx(tmp_path / "c.json", model, input_data=example)
    with torch.no_grad():
        assert torch.equal(quantized(x), model(x))
        amct.enable_quantization(quantized, calibration=True)
        quantized(x)
        amct.enable_quantization(quantized, fake_quant=True)
        fake = quantized(x)
        amct.enable_quantization(quantized, real_quant=True)
        torch.testing.assert_close(quantized(x), fake, rtol=0, atol=1e-5)
    amct.save_quant_model_fx(quantized, tmp_path / "n", x)
    with torch.no_grad():
        in_float = model(x)
    for kind, expected in (("float", in_float), ("fake_quant", fake)):
        session = onnxruntime.InferenceSession(tmp_path / f"n_{kind}_model.onnx")
        found = torch.tensor(session.run(None, {"x": x.numpy()})[0])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("with_example", [True, False], ids=["guided", "stock"])
def test_change_through_an_unknown_view_is_refused_with_the_line(with_example: bool, tmp_path: Path) -> None:
    line = strided.__code__.co_firstlineno + 1
    shares = "shares" if with_example else "may share"
    with pytest.raises(amct.UnsupportedModelError, match=f"{shares} its memory and is read later") as caught:
        amct.create_quant_config_fx(
            tmp_path / "c.json", Net(strided).eval(), input_data=images() if with_example else None
        )
    assert f'File "{__file__}", line {line}, in strided' in str(caught.value)
    assert ("pass input_data=" in str(caught.value)) is not with_example
