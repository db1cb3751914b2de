"""input_data of the FX functions: models that a stock trace refuses are quantized and saved, with the usual names."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from tests.support import dynamic_path
from tests.support.log_lines import LogLines, log_lines

__all__ = ["log_lines"]


class Sized(nn.Module):
    """Asks for sizes, and for an argument that is left out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.register_buffer("shift", torch.randn(1, 4))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        assert x.shape[-1] % 2 == 0
        y = self.conv(x)
        if mask is not None:
            y = y * mask
        return self.fc(y.mean((2, 3)) + self.shift.expand(x.shape[0], -1))


def image(size: int = 2) -> Tensor:
    return torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(size))


def test_model_goes_the_whole_way(tmp_path: Path) -> None:
    model = Sized().eval()
    config, example = tmp_path / "config.json", image()
    amct.create_quant_config_fx(config, model, input_data=example)
    assert list(json.loads(config.read_text())) == ["conv", "mean", "add", "fc"]
    quantized = amct.create_quant_model_fx(config, model, input_data=example)
    torch.testing.assert_close(quantized(image(5)), model(image(5)), rtol=0, atol=0)
    amct.enable_quantization(quantized, calibration=True)
    quantized(image(4))
    amct.enable_quantization(quantized, fake_quant=True)
    expected = quantized(image(1))
    torch.save(quantized.state_dict(), tmp_path / "state.pt")
    amct.save_quant_model_fx(quantized, tmp_path / "net", image(1), {"dynamic_axes": {"x": {0: "batch"}}})
    restored = amct.restore_quant_model_fx(config, Sized().eval(), tmp_path / "state.pt", input_data=example)
    amct.enable_quantization(restored, fake_quant=True)
    torch.testing.assert_close(restored(image(1)), expected, rtol=0, atol=0)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(tmp_path / "net_fake_quant_model.onnx")
    found = session.run(None, {"x": image(3).numpy()})[0]
    torch.testing.assert_close(torch.tensor(found), quantized(image(3)), rtol=0, atol=1e-5)


def test_without_input_data_the_error_asks_for_it(tmp_path: Path) -> None:
    with pytest.raises(amct.UnsupportedModelError, match="Pass input_data= to trace the model as it is called"):
        amct.create_quant_config_fx(tmp_path / "config.json", Sized())


def test_check_model_follows_the_example() -> None:
    assert amct.check_model(Sized()).problems
    assert not amct.check_model(Sized(), input_data=image()).problems
    assert not amct.check_model(Sized().eval(), image()).problems


class Wrapped(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_model_inside_a_wrapper_is_taken(tmp_path: Path, wrap: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    amct.create_quant_config_fx(tmp_path / "config.json", wrap(model), input_data=image())
    assert list(json.loads((tmp_path / "config.json").read_text())) == ["_0"]
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", wrap(model))
    torch.testing.assert_close(quantized(image()), model(image()), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_quantized_as_a_copy_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval().to(dtype)
    amct.create_quant_config_fx(tmp_path / "config.json", model, input_data=image().to(dtype))
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model)
    assert quantized(image()).dtype == torch.float32
    assert model[0].weight.dtype == dtype


class PeftModel(nn.Module):
    __module__ = "peft.peft_model"


@pytest.mark.parametrize(
    ("model", "remedy"),
    [
        (torch.jit.script(nn.Linear(2, 2)), "Pass the module it was made from"),
        (PeftModel(), "merge_and_unload"),
        (nn.Linear(2, 2, device="meta"), "Load the weights"),
        (nn.LazyLinear(2), "Run the model once"),
    ],
)
def test_what_cannot_be_taken_is_said_in_a_sentence(tmp_path: Path, model: nn.Module, remedy: str) -> None:
    with pytest.raises(amct.UnsupportedModelError, match=remedy):
        amct.create_quant_config_fx(tmp_path / "c.json", model)
    assert remedy in str(amct.check_model(model))


class Variadic(Sized):
    """Takes anything, as decorated forwards and those of frameworks do."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize("given", [{}, {"input_data": image()}], ids=["stock", "guided"])
def test_forward_that_takes_anything_is_saved(tmp_path: Path, given: dict[str, Any]) -> None:
    config = tmp_path / "config.json"
    amct.create_quant_config_fx(config, Variadic().eval(), **given)
    quantized = amct.create_quant_model_fx(config, Variadic().eval(), **given)
    amct.enable_quantization(quantized, calibration=True)
    quantized(image(4))
    amct.save_quant_model_fx(quantized, tmp_path / "net", image(1), golden_inputs=image(1))
    assert (tmp_path / "net_deploy_model.onnx").is_file()


class Typed(Sized):
    """Asks for types, as the models of Hugging Face do, and makes a table of them."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if x.dtype != self.conv.weight.dtype or y.dtype != torch.float32:
            raise ValueError("the type")
        table = y.new_full((1, 4), 0.5) + torch.arange(4).type_as(y)
        return self.fc(y.mean((2, 3)) + table)


def test_types_in_real_quant_are_those_in_float_and_tables_are_folded(tmp_path: Path) -> None:
    config, x = tmp_path / "config.json", image()
    amct.create_quant_config_fx(config, Typed().eval(), input_data=x)
    assert list(json.loads(config.read_text())) == ["conv", "mean", "fc"]
    quantized = amct.create_quant_model_fx(config, Typed().eval(), input_data=x)
    amct.enable_quantization(quantized, calibration=True)
    quantized(x)
    amct.save_quant_model_fx(quantized, tmp_path / "net", x, golden_inputs=x)  # compares with real_quant
    files = dynamic_path.make_config(Typed().eval(), tmp_path, x)
    model = dynamic_path.quantize(Typed().eval(), files, x)
    dynamic_path.run(model, x)
    amct.enable_quantization(model, real_quant=True)
    assert dynamic_path.run(model, x).dtype == torch.float32


@dataclasses.dataclass
class Batch:
    image: Tensor
    shift: Tensor
    is_shifted: bool = True


class TakesDataclass(Sized):
    def forward(self, batch: Batch) -> Tensor:
        y = self.conv(batch.image).mean((2, 3))
        return self.fc(y + batch.shift if batch.is_shifted else y)


def test_dataclass_that_torch_knows_is_an_argument(tmp_path: Path) -> None:
    def batch(size: int, is_shifted: bool = True) -> Batch:
        return Batch(image(size), torch.full((size, 4), 0.5), is_shifted)

    model, config = TakesDataclass().eval(), tmp_path / "config.json"
    with pytest.raises(amct.UnsupportedModelError, match="register_dataclass"):
        amct.create_quant_config_fx(config, model, input_data=batch(2))
    torch.export.register_dataclass(Batch)
    amct.create_quant_config_fx(config, model, input_data=batch(2))
    quantized = amct.create_quant_model_fx(config, model, input_data=batch(2))
    torch.testing.assert_close(quantized(batch(3)), model(batch(3)), rtol=0, atol=0)
    with pytest.raises(amct.UnsupportedModelError, match="is_shifted"):
        quantized(batch(3, is_shifted=False))
    amct.enable_quantization(quantized, calibration=True)
    quantized(batch(4))
    amct.save_quant_model_fx(quantized, tmp_path / "net", batch(1), golden_inputs=batch(1))


@torch.fx.wrap
def reads_values(x: Tensor) -> Tensor:
    return x * len([one for one in x.flatten().tolist() if one > 0]) / x.numel()


class ReadsInside(Sized):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(reads_values(self.conv(x)).mean((2, 3)))


def test_values_read_inside_an_opaque_function_are_told_at_the_save(tmp_path: Path, log_lines: LogLines) -> None:
    config, x = tmp_path / "config.json", image(1)
    amct.create_quant_config_fx(config, ReadsInside().eval(), input_data=x)
    quantized = amct.create_quant_model_fx(config, ReadsInside().eval(), input_data=x)
    amct.enable_quantization(quantized, calibration=True)
    quantized(x)
    amct.save_quant_model_fx(quantized, tmp_path / "net", x)
    told = [line for line in log_lines.warnings if "hold a value of input_data as a constant" in line]
    assert len(told) == 1
    assert "x.flatten().tolist()" in told[0]


class ReadsTwice(Sized):
    def forward(self, x: Tensor) -> Tensor:
        x = reads_values(self.conv(x))
        x = reads_values(x + x.max().item())
        return self.fc((x * x.min().item()).mean((2, 3)))


def test_one_warning_lists_all_values_that_are_read(tmp_path: Path, log_lines: LogLines) -> None:
    config, x = tmp_path / "config.json", image(1)
    amct.create_quant_config_fx(config, ReadsTwice().eval())
    quantized = amct.create_quant_model_fx(config, ReadsTwice().eval())
    amct.enable_quantization(quantized, calibration=True)
    quantized(x)
    log_lines.lines.clear()
    amct.save_quant_model_fx(quantized, tmp_path / "net", x)
    assert len([line for line in log_lines.warnings if line.count("x.flatten().tolist()") == 1]) == 1
    numbers = [line for line in log_lines.warnings if line.startswith("Numbers made of data are constants")]
    assert len(numbers) == 1 and numbers[0].count("by item") == 2


class JoinsNothing(Sized):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.fc(torch.cat((y[:, :0], y), 1).mean((2, 3)))


def test_join_with_a_tensor_without_elements_stays_in_float(tmp_path: Path) -> None:
    config, x = tmp_path / "config.json", image()
    amct.create_quant_config_fx(config, JoinsNothing().eval(), input_data=x)
    assert list(json.loads(config.read_text())) == ["conv", "mean", "fc"]
    quantized = amct.create_quant_model_fx(config, JoinsNothing().eval(), input_data=x)
    amct.enable_quantization(quantized, calibration=True)
    quantized(x)
    amct.save_quant_model_fx(quantized, tmp_path / "net", x, golden_inputs=x)


class Multiplies(Sized):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).abs().lgamma().mean((2, 3)))


def test_what_a_save_will_refuse_is_said_at_creation(tmp_path: Path, log_lines: LogLines) -> None:
    config, x = tmp_path / "config.json", image()
    amct.create_quant_config_fx(config, Multiplies().eval(), input_data=x)
    quantized = amct.create_quant_model_fx(config, Multiplies().eval(), input_data=x)
    text = "A save with this input_data will be refused: 'lgamma'"
    told = [line for line in log_lines.warnings if text in line]
    assert len(told) == 1
    amct.enable_quantization(quantized, calibration=True)
    quantized(x)
    with pytest.raises(amct.ExportError, match="'lgamma'"):
        amct.save_quant_model_fx(quantized, tmp_path / "net", x)


class Attending(nn.Module):
    """Views of the result of an attention, which is written as nodes without an example."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x)[:, None] for layer in (self.q, self.k, self.v))
        return nn.functional.scaled_dot_product_attention(q, k, v).flatten(1).relu_()


def test_views_of_an_attention_are_traced(tmp_path: Path) -> None:
    model, x = Attending().eval(), torch.randn(2, 6, 8)
    amct.create_quant_config_fx(tmp_path / "config.json", model, input_data=x)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model, input_data=x)
    amct.enable_quantization(quantized)
    torch.testing.assert_close(quantized(x), model(x))
