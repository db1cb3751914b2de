"""Guarantees of save_quant_model_fx: files, names, settings, the model is unchanged (spec 2.4, 11.1)."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from hotwheels.amct_pytorch.nn.mode import Mode
from hotwheels.amct_pytorch.nn.quantized_layer import QuantizedLayer
from tests.support.fx_path import calibrate, make_config, open_onnx, quantize, run_fake, run_onnx
from tests.support.log_lines import LogLines
from tests.support.nets import Residual


class Several(nn.Module):
    """Two inputs, an optional argument, three outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, image: Tensor, weight_map: Tensor, gain: float = 2.0) -> dict[str, Any]:
        x = self.conv(image)
        low, high = (x * weight_map * gain).split(2, 1)
        return {"low": low, "rest": [high, x]}


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 6, 6)


@pytest.fixture
def calibrated(tmp_path: Path) -> QuantGraphModule:
    return quantize(Residual().eval(), tmp_path, [(images(),)])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("out*")}


def names(path: Path) -> tuple[list[str], list[str]]:
    session = open_onnx(path)
    return [one.name for one in session.get_inputs()], [one.name for one in session.get_outputs()]


# --- the model stays as it was ---


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("is_training", [True, False])
def test_save_in_any_state_changes_nothing_and_can_be_repeated(
    mode: Mode, is_training: bool, calibrated: QuantGraphModule, tmp_path: Path
) -> None:
    calibrated.train(is_training)
    calibrated.mode = mode
    state = copy.deepcopy(calibrated.state_dict())
    amct.save_quant_model_fx(calibrated, tmp_path / "out", images(1))
    first = contents(tmp_path)
    amct.save_quant_model_fx(calibrated, tmp_path / "out", [images(1)])
    assert contents(tmp_path) == first
    assert calibrated.mode is mode
    assert all(module.training is is_training for module in calibrated.modules())
    assert all(torch.equal(value, state[name]) for name, value in calibrated.state_dict().items())


def test_every_state_writes_the_same_files(calibrated: QuantGraphModule, tmp_path: Path) -> None:
    written = []
    for mode in (Mode.FLOAT, Mode.CALIBRATION, Mode.REAL_QUANT):
        calibrated.mode = mode
        amct.save_quant_model_fx(calibrated, tmp_path / "out", images(1))
        written.append(contents(tmp_path))
    assert written[0] == written[1] == written[2]


def test_model_is_used_on_after_save(calibrated: QuantGraphModule, tmp_path: Path) -> None:
    amct.enable_quantization(calibrated.train(), fake_quant=True)
    calibrated(images()).sum().backward()
    amct.save_quant_model_fx(calibrated, tmp_path / "out", images(1))
    assert calibrated.head.weight.grad is not None
    calibrated(images()).sum().backward()


def test_float_model_is_the_unquantized_one(tmp_path: Path) -> None:
    model, x = Residual().eval(), images()
    quantized = quantize(model, tmp_path, [(x,)])
    amct.save_quant_model_fx(quantized, tmp_path / "out", x[:1], {"dynamic_axes": {"image": {0: "n"}}})
    assert np.allclose(run_onnx(tmp_path / "out_float_model.onnx", x)[0], model(x).detach().numpy(), atol=1e-5)


# --- names and settings ---


def test_default_names(tmp_path: Path) -> None:
    batch = images(), torch.rand(4, 1, 6, 6)
    quantized = quantize(Several().eval(), tmp_path, [batch])
    amct.save_quant_model_fx(quantized, tmp_path / "out", (images(1), torch.rand(1, 1, 6, 6)))
    for name in ("deploy", "fake_quant", "float"):
        graph = onnx.load(tmp_path / f"out_{name}_model.onnx").graph
        assert [one.name for one in graph.input] == ["image", "weight_map"]
        assert [one.name for one in graph.output] == ["output_0", "output_1", "output_2"]
    batch = images(1), torch.rand(1, 1, 6, 6)
    fake, result = run_fake(quantized, *batch), run_onnx(tmp_path / "out_fake_quant_model.onnx", *batch)
    for left, right in zip(result, (fake["low"], *fake["rest"]), strict=True):
        assert np.allclose(left, right, atol=1e-4)


def test_numbers_are_constants_and_lists_are_several_inputs(tmp_path: Path) -> None:
    class Lists(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, gain: float, levels: list[Tensor], flag: bool | None = None) -> Tensor:
            first, second = levels[0], levels[1]
            return self.conv(first + second) * gain

    batch = 3.0, [images(1), images(1)]
    quantized = quantize(Lists().eval(), tmp_path, [batch])
    amct.save_quant_model_fx(quantized, tmp_path / "out", batch)
    assert names(tmp_path / "out_fake_quant_model.onnx") == (["levels_0", "levels_1"], ["output"])
    result = run_onnx(tmp_path / "out_fake_quant_model.onnx", *batch[1])[0]
    assert np.allclose(result, run_fake(quantized, *batch), atol=1e-4)


def test_names_and_axes_of_the_user(calibrated: QuantGraphModule, tmp_path: Path) -> None:
    setting = {
        "input_names": ["input"], "output_names": ("logits",),
        "dynamic_axes": {"input": {0: "n"}, "logits": [0]}, "opset_version": 15,
    }  # fmt: skip
    amct.save_quant_model_fx(calibrated, tmp_path / "out", images(1), setting)
    assert names(tmp_path / "out_fake_quant_model.onnx") == (["input"], ["logits"])
    assert run_onnx(tmp_path / "out_fake_quant_model.onnx", images(3))[0].shape == (3, 5)
    assert {one.domain: one.version for one in onnx.load(tmp_path / "out_deploy_model.onnx").opset_import} == {"": 15}


def test_single_output_is_called_output(calibrated: QuantGraphModule, tmp_path: Path) -> None:
    amct.save_quant_model_fx(calibrated, tmp_path / "out", images(1))
    assert names(tmp_path / "out_fake_quant_model.onnx") == (["image"], ["output"])


def test_default_opset_is_13(calibrated: QuantGraphModule, tmp_path: Path) -> None:
    amct.save_quant_model_fx(calibrated, tmp_path / "out", images(1))
    for path in tmp_path.glob("out*.onnx"):
        assert {one.domain: one.version for one in onnx.load(path).opset_import} == {"": 13}


@pytest.mark.parametrize("name", ["model", "args", "f", "training", "export_params"])
def test_what_the_save_decides_is_ignored_with_a_warning(
    name: str, calibrated: QuantGraphModule, tmp_path: Path, log_lines: LogLines
) -> None:
    amct.save_quant_model_fx(calibrated, tmp_path / "out", images(1), {name: "anything"})
    assert any(f"'{name}' is ignored" in one for one in log_lines.warnings)


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"input_names": "input"}, r"onnx_export_setting\['input_names'\]' must be a list of strings, got str"),
        ({"output_names": [1]}, r"onnx_export_setting\['output_names'\]' must be a list of strings, got int"),
        ({"dynamic_axes": ["image"]}, r"onnx_export_setting\['dynamic_axes'\]' must be a dict"),
        ({"opset_version": "13"}, r"onnx_export_setting\['opset_version'\]' must be an int"),
        ({"opset": 13}, r"onnx_export_setting\['opset'\] is no argument of torch.onnx.export"),
        ([("opset_version", 13)], r"'onnx_export_setting' must be a dict or None, got list"),
    ],
)
def test_wrong_setting(setting: Any, text: str, calibrated: QuantGraphModule, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=text):
        amct.save_quant_model_fx(calibrated, tmp_path / "out", images(1), setting)
    assert not contents(tmp_path)


def test_save_before_calibration_names_the_layers(tmp_path: Path) -> None:
    model = Residual().eval()
    two = {"activation_quant_params": [{"quantizer": "UlqFakeQuantize", "quantizer_args": {"batch_num": 2}}]}
    quantized = amct.create_quant_model_fx(make_config(model, tmp_path, {"conv1": two, "head": two}), model)
    calibrate(quantized, [(images(),)])
    seen = "1 of 2 batches seen"
    with pytest.raises(amct.CalibrationError, match="2 layers have no parameters: 1 of 2 batches seen by conv1, head"):
        amct.save_quant_model_fx(quantized, tmp_path / "out", images(1))
    assert not contents(tmp_path)
    amct.enable_quantization(quantized, fake_quant=True)
    with pytest.raises(amct.CalibrationError, match=rf"Layer 'conv1' is not calibrated \({seen}\)"):
        quantized(images(1))


def test_earlier_files_stay_whole_when_a_save_fails(
    calibrated: QuantGraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    amct.save_quant_model_fx(calibrated, tmp_path / "out", images(1))
    before = contents(tmp_path)
    with torch.no_grad():
        calibrated.head.weight.mul_(3)
    monkeypatch.setattr(QuantizedLayer, "record", _wrong_record)
    with pytest.raises(amct.ExportError):
        amct.save_quant_model_fx(calibrated, tmp_path / "out", images(1))
    assert contents(tmp_path) == before


def _wrong_record(layer: QuantizedLayer, record: Any = QuantizedLayer.record) -> Any:
    """The grid of a convolution with one scale too few."""
    found = record(layer)
    if found.weight is None or len(found.weight.scale) == 1:
        return found
    return dataclasses.replace(found, weight=dataclasses.replace(found.weight, scale=found.weight.scale[1:]))


class _Eigenvalues(nn.Module):
    amct_leaf = True

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x @ x.transpose(2, 3))


def test_operation_without_onnx_form_is_an_export_error(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), _Eigenvalues()).eval()
    quantized = quantize(model, tmp_path, [(images(),)])
    with pytest.raises(amct.ExportError, match=r"eigvalsh|linalg_eigh"):
        amct.save_quant_model_fx(quantized, tmp_path / "out", images(1))
    assert not contents(tmp_path)


def test_opset_is_raised_where_an_operation_needs_it(tmp_path: Path) -> None:
    class Sampled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.grid_sample(x, torch.tanh(self.conv(x)).permute(0, 2, 3, 1), align_corners=False)

    quantized = quantize(Sampled().eval(), tmp_path, [(images(),)])
    amct.save_quant_model_fx(quantized, tmp_path / "out", x := images(1))
    assert onnx.load(tmp_path / "out_fake_quant_model.onnx").opset_import[0].version == 16
    assert np.allclose(run_onnx(tmp_path / "out_fake_quant_model.onnx", x)[0], run_fake(quantized, x), atol=1e-3)
    with pytest.raises(amct.ExportError, match="added in version 16"):
        amct.save_quant_model_fx(quantized, tmp_path / "out", x, {"opset_version": 14})


def test_attention_of_torch_is_exported(tmp_path: Path) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.attention = nn.Linear(6, 8), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x[:, 0])
            return self.attention(x, x, x, need_weights=False)[0]

    quantized = quantize(Attention().eval(), tmp_path, [(images(),)])
    amct.save_quant_model_fx(quantized, tmp_path / "out", x := images(1))
    assert np.allclose(run_onnx(tmp_path / "out_fake_quant_model.onnx", x)[0], run_fake(quantized, x), atol=1e-4)
    assert torch.backends.mha.get_fastpath_enabled()


def test_sizes_asked_of_data_do_not_fix_the_batch(tmp_path: Path) -> None:
    class Shuffle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            batch, channels, height, width = x.data.size()
            return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(x.data.shape)

    quantized = quantize(Shuffle().eval(), tmp_path, [(images(),)])
    amct.save_quant_model_fx(quantized, tmp_path / "out", images(1), {"dynamic_axes": {"x": [0]}})
    x = images(5)
    assert np.allclose(run_onnx(tmp_path / "out_fake_quant_model.onnx", x)[0], run_fake(quantized, x), atol=1e-4)


def test_input_of_a_wrong_shape_is_an_export_error(calibrated: QuantGraphModule, tmp_path: Path) -> None:
    with pytest.raises(amct.ExportError, match="input_data"):
        amct.save_quant_model_fx(calibrated, tmp_path / "out", torch.randn(1, 2, 6, 6))


def test_wrong_number_of_inputs_is_an_export_error(calibrated: QuantGraphModule, tmp_path: Path) -> None:
    with pytest.raises(amct.ExportError, match="input_data has 2 values, but forward takes image"):
        amct.save_quant_model_fx(calibrated, tmp_path / "out", (images(1), images(1)))


def test_wrapped_model_is_refused(calibrated: QuantGraphModule, tmp_path: Path) -> None:
    with pytest.raises(amct.UnsupportedModelError, match="Sequential is not a quantized model"):
        amct.save_quant_model_fx(nn.Sequential(calibrated), tmp_path / "out", images(1))


def test_float_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(amct.UnsupportedModelError, match="Residual is not a quantized model"):
        amct.save_quant_model_fx(Residual(), tmp_path / "out", images(1))


@pytest.mark.parametrize("is_on", [False, True], ids=["exporter quiet", "after an export of the user's own"])
def test_failing_export_says_so_in_its_error_only(
    is_on: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(functools.partial(torch._C._jit_set_onnx_log_enabled, torch._C._jit_is_onnx_log_enabled()))
    torch._C._jit_set_onnx_log_enabled(is_on)
    x = torch.randn(1, 3, 7, 7)
    quantized = quantize(nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(4)).eval(), tmp_path, [(x,)])
    capfd.readouterr()
    with pytest.raises(amct.ExportError, match="its windows have several sizes"):
        amct.save_quant_model_fx(quantized, tmp_path / "net", x)
    assert "graph" not in capfd.readouterr().out
    assert torch._C._jit_is_onnx_log_enabled() == is_on
