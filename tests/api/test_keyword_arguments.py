"""Models whose forward takes keyword arguments: each entry of **kwargs is an input of the graph and of the files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from tests.support.whole_way import PATHS, take


class TwoImages(nn.Module):
    """Reads an image and a number by keyword; subclasses call `both`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)

    def both(self, x: Tensor, **inputs: Any) -> Tensor:
        return self.first(x) + self.second(inputs["image"]) * inputs.get("scale", 1)


def image(count: int) -> Tensor:
    return torch.randn(count, 3, 8, 8)


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    forward: Callable[..., Any]
    call: Callable[[int], tuple[Any, ...]]
    inputs: tuple[str, ...]


def only_keywords(self: Any, **inputs: Any) -> Tensor:
    return self.both(inputs.pop("pixels"), **inputs)


def anything(self: Any, *args: Any, **kwargs: Any) -> Tensor:
    return self.both(*args, **kwargs)


def flagged(self: Any, x: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
    y = self.both(x, image=kwargs["image"])
    return y * 2 if kwargs.get("doubled") else y


def keyword_only(self: Any, x: Tensor, mask: Tensor | None = None, *, image: Tensor) -> Tensor:
    return self.both(x, image=image)


CASES = [
    Case("behind_a_name", TwoImages.both, lambda n: (image(n), {"image": image(n)}), ("x", "image")),
    Case("only", only_keywords, lambda n: ({"pixels": image(n), "image": image(n)},), ("pixels", "image")),
    Case("anything", anything, lambda n: (image(n), {"image": image(n), "scale": 0.5}), ("args_0", "image")),
    Case("flag", flagged, lambda n: (image(n), {"image": image(n), "doubled": True}), ("x", "image")),
    Case("keyword_only", keyword_only, lambda n: (image(n), {"image": image(n)}), ("x", "image")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_keywords_of_the_example_are_inputs_of_the_files(tmp_path: Path, case: Case) -> None:
    model = type("Model", (TwoImages,), {"forward": case.forward})().eval()
    axes = {name: {0: "n"} for name in case.inputs}
    take(model, [case.call(2), case.call(3)], PATHS[1], tmp_path, axes)
    session = onnxruntime.InferenceSession(tmp_path / "net_deploy_model.onnx")
    assert tuple(one.name for one in session.get_inputs()) == case.inputs


def test_graph_takes_the_keywords_of_its_example_only(tmp_path: Path) -> None:
    model = type("Model", (TwoImages,), {"forward": flagged})().eval()
    example = (image(2), {"image": image(2), "doubled": True})
    amct.create_quant_config_fx(tmp_path / "config.json", model, input_data=example)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model, input_data=example)
    with pytest.raises(amct.UnsupportedModelError, match="doubled"):
        quantized(image(2), image=image(2), doubled=False)
    with pytest.raises(TypeError, match="'other'"):
        quantized(image(2), image=image(2), doubled=True, other=1)


def test_restored_model_takes_the_keywords(tmp_path: Path) -> None:
    model = type("Model", (TwoImages,), {"forward": only_keywords})().eval()
    example = {"pixels": image(2), "image": image(2)}
    amct.create_quant_config_fx(tmp_path / "config.json", model, input_data=(example,))
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model, input_data=(example,))
    amct.enable_quantization(quantized, calibration=True)
    quantized(**example)
    torch.save(quantized.state_dict(), tmp_path / "state.pth")
    given = tmp_path / "config.json", model, tmp_path / "state.pth"
    restored = amct.restore_quant_model_fx(*given, input_data=(example,))
    for one in (quantized, restored):
        amct.enable_quantization(one, fake_quant=True)
    assert torch.equal(quantized(**example), restored(**example))


def test_keywords_that_the_traced_call_did_not_have_are_refused_at_the_save(tmp_path: Path) -> None:
    model = type("Model", (TwoImages,), {"forward": lambda self, x, **more: self.first(x)})().eval()
    amct.create_quant_config_fx(tmp_path / "config.json", model, input_data=image(2))
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model, input_data=image(2))
    amct.enable_quantization(quantized, calibration=True)
    quantized(image(2))
    with pytest.raises(amct.ExportError, match=r"traced without the keyword arguments 'image'"):
        amct.save_quant_model_fx(quantized, tmp_path / "net", (image(2), {"image": image(2)}))
