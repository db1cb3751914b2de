"""Input that the functions of the dynamic path refuse, and the texts of the errors (spec 3, 13.1)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.record import Record
from hotwheels.amct_pytorch.record.text_proto import write_record
from tests.support.dynamic_nets import Branches, Decides, SmallResNet, images
from tests.support.dynamic_path import Files, calibrated, make_config, quantize, run
from tests.support.log_lines import LogLines

X = images(2)[0][0]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A configuration of SmallResNet for one batch."""
    return make_config(SmallResNet(), tmp_path, X)


# --- rules ---


def test_one_repair_for_all_calls_of_a_cell(tmp_path: Path) -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.linear = nn.LSTMCell(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            state = (torch.zeros(2, 4),) * 2
            for step in range(40):
                state = self.cell(self.linear(x[:, step]), state)
            return state[0]

    files = make_config(Steps().eval(), tmp_path, torch.randn(2, 40, 4))
    with pytest.raises(amct.AmctError, match="74 more: '/cell_3/Gemm', ") as caught:
        quantize(Steps().eval(), files, torch.randn(2, 40, 4))
    assert str(caught.value).count("Repair:") == 1
    assert len(str(caught.value)) < 2_000


# --- arguments ---

WRONG_CALLS: dict[str, tuple[Callable[[Files], Any], str]] = {
    "unknown keyword": (
        lambda files: amct.create_quant_config(files.config, SmallResNet(), X, skip_layer=["fc"]),
        r"create_quant_config.*'skip_layer'.*create_quant_config\(config_file, model, input_data, skip_layers,"
        r" batch_num, activation_offset, config_defination\)",
    ),
    "save_path left out": (
        lambda files: amct.save_model(files.onnx, files.record_file),
        r"save_path.*save_model\(modfied_onnx_file, record_file, save_path, calibration_torch_model\)",
    ),
    "model as save_path": (
        lambda files: amct.save_model(files.config, files.config, SmallResNet()),
        r"'save_path' must be a string, got SmallResNet.*save_model\(modfied_onnx_file, record_file, save_path, ",
    ),
    "both spellings": (
        lambda files: amct.save_model(modfied_onnx_file="a", record_file="b", save_path="c", modified_onnx_file="a"),
        "'modfied_onnx_file' and 'modified_onnx_file' are two spellings",
    ),
    "names as a string": (
        lambda files: quantize(SmallResNet(), files, X, input_names="input"),
        "'input_names' must be a list of strings",
    ),
    "axes as a list": (lambda files: quantize(SmallResNet(), files, X, dynamic_axes=["input"]), "'dynamic_axes'"),
    "no model": (lambda files: amct.create_quant_config(files.config, "model", X), "'model' must be a torch.nn.Module"),
    "status of no model": (lambda files: amct.update_bn_status(None), "'calibration_model'"),
    "status as a number": (lambda files: amct.update_bn_status(SmallResNet(), 1), "'training' must be a bool"),
}


@pytest.mark.parametrize(("call", "text"), WRONG_CALLS.values(), ids=WRONG_CALLS.keys())
def test_wrong_calls(files: Files, call: Callable[[Files], Any], text: str) -> None:
    with pytest.raises(TypeError, match=f"(?s){text}"):
        call(files)


def test_both_spellings_of_names_are_taken(files: Files) -> None:
    quantized = amct.quantize_model(
        config_file=str(files.config), modified_onnx_file=str(files.onnx), record_file=str(files.record_file),
        model=SmallResNet(), input_data=[X],
    )  # fmt: skip
    run(quantized, X)
    amct.save_model(modfied_onnx_file=files.onnx, record_file=files.record_file, save_path=str(files.folder / "o/"))


@pytest.mark.parametrize("batch_num", [0, -1, "two"])
def test_wrong_batch_num(tmp_path: Path, batch_num: Any) -> None:
    with pytest.raises(amct.ConfigError, match="batch_num"):
        make_config(SmallResNet(), tmp_path, X, batch_num=batch_num)
    assert not list(tmp_path.iterdir())


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config.json"):
        quantize(SmallResNet(), Files(tmp_path), X)
    with pytest.raises(FileNotFoundError, match=r"modified.onnx"):
        Files(tmp_path).save()


def test_inputs_without_a_tensor(tmp_path: Path) -> None:
    with pytest.raises(amct.UnsupportedModelError, match="holds no tensor"):
        make_config(SmallResNet(), tmp_path, (1, "two"))


def test_inputs_which_do_not_fit_the_model(tmp_path: Path) -> None:
    with pytest.raises(amct.ExportError, match="input_data"):
        make_config(SmallResNet(), tmp_path, torch.ones(1, 7, 8, 8))


def test_an_existing_configuration_is_replaced_with_a_warning(files: Files, log_lines: LogLines) -> None:
    make_config(SmallResNet(), files.folder, X)
    assert any("exists and is replaced" in line for line in log_lines.warnings)


# --- the model ---


def test_quantized_model_is_refused(files: Files) -> None:
    quantized = quantize(SmallResNet(), files, X)
    with pytest.raises(amct.UnsupportedModelError, match="quantized already"):
        amct.create_quant_config(files.config, quantized, X)


def test_model_that_cannot_be_copied_is_worked_on_directly(tmp_path: Path, log_lines: LogLines) -> None:
    model = SmallResNet()
    model.cache = [torch.ones(1, requires_grad=True) * 2]
    files = make_config(model, tmp_path, X)
    assert any("cannot be copied" in line for line in log_lines.warnings)
    assert "forward" not in vars(model) and "forward" not in vars(model.conv1)
    quantized = quantize(model, files, X)
    assert quantized is model
    run(quantized, X)
    files.save()


def test_divisor_override_is_refused(tmp_path: Path) -> None:
    model = Branches()
    model.pool.divisor_override = 3
    with pytest.raises(amct.ExportError, match=r"'pool'.*divisor_override=3"):
        make_config(model, tmp_path, X)


# --- the checks of spec 13.1 ---


def test_no_layer_enabled(files: Files) -> None:
    layers = [name for name, value in files.document.items() if isinstance(value, dict)]
    files.change_layers(*layers, quant_enable=False)
    with pytest.raises(amct.ConfigError) as error:
        quantize(SmallResNet(), files, X)
    text = "No quant enable layer in quant config file, please check the quant config file."
    assert str(error.value).startswith(text)


def test_all_violations_stand_in_one_error(files: Files) -> None:
    files.change_layers("fc", "layer1.0.conv1", quant_enable=False)
    with pytest.raises(amct.UnsupportedModelError) as error:
        quantize(SmallResNet(), files, X)
    text = str(error.value)
    assert (
        "Outputs layer1.0.conv1(onnx name: /layer1/layer1.0/conv1/Conv) and layer1.0.eltwise_add(onnx name:"
        " /layer1/layer1.0/eltwise_add/Add) of layer maxpool(onnx name: /maxpool/MaxPool) should have consistent"
        " quant_enable" in text
    )
    for layer, name in (("fc", "/fc/Gemm"), ("layer1.0.conv1", "/layer1/layer1.0/conv1/Conv")):
        rule = "must be quantized as it is an operation calculated on CUBE"
        assert f"Layer {layer}(onnx name: {name}) {rule}" in text
        assert f'in config.json set "{layer}": {{"quant_enable": true' in text
    assert sorted(path.name for path in files.folder.iterdir()) == ["config.json"]


def test_readers_of_one_tensor_need_equal_widths(files: Files) -> None:
    entry = files.document["layer1.0.eltwise_add"]
    wide = [dict(one, num_bits=16) for one in entry["activation_quant_params"]]
    files.change_layers("layer1.0.eltwise_add", activation_quant_params=wide)
    with pytest.raises(amct.UnsupportedModelError, match="should have consistent num_bits"):
        quantize(SmallResNet(), files, X)


def test_no_command_layer_needs_the_settings_behind_it(tmp_path: Path) -> None:
    class Net(nn.Sequential):
        def __init__(self) -> None:
            super().__init__()
            self.cat, self.conv = amct.Cat(1), nn.Conv2d(6, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.cat(x, x + 1))

    files = make_config(Net(), tmp_path, X)
    wide = [dict(one, num_bits=16) for one in files.document["cat"]["activation_quant_params"]]
    files.change_layers("cat", activation_quant_params=wide)
    with pytest.raises(amct.UnsupportedModelError) as error:
        quantize(Net(), files, X)
    assert (
        "Layer conv(onnx name: /conv/Conv) should have consistent num_bits with no command layer"
        " cat(onnx name: /cat/Concat)" in str(error.value)
    )


class Product(nn.Module):
    """A product, which takes no offset, and a convolution read the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other, self.matmul = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), amct.MatMul()
        self.eval()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x)
        return self.other(y), self.matmul(y, y.transpose(2, 3))


def test_repair_of_a_product_and_its_sibling_is_accepted(tmp_path: Path) -> None:
    files = make_config(Product(), tmp_path, X)
    with pytest.raises(amct.UnsupportedModelError) as error:
        quantize(Product(), files, X)
    # The product cannot have an offset, so it is the other layer that has to change, whichever comes first.
    repair = 'give "other" in "activation_quant_params"[0] the "with_offset" false, as it is in "matmul"[0]'
    assert "should have consistent with_offset" in str(error.value)
    assert repair in str(error.value)
    (entry,) = files.document["other"]["activation_quant_params"]
    files.change_layers("other", activation_quant_params=[entry | {"with_offset": False}])
    run(quantize(Product(), files, X), X)
    left, right = (files.record.layers[name].activations[0] for name in ("other", "matmul"))
    assert left == right


def test_weight_that_depends_on_the_data_is_said(tmp_path: Path, log_lines: LogLines) -> None:
    class Dynamic(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(input, self.weight * input.mean(), self.bias)

    model = nn.Sequential(Dynamic(3, 4, 1), nn.Conv2d(4, 4, 1)).eval()
    files = make_config(model, tmp_path, X)
    assert any("Layer '0' is not quantized: the weight" in line for line in log_lines.warnings)
    with pytest.raises(amct.UnsupportedModelError, match=r"Layer /0/Conv.*must be quantized"):
        quantize(model, files, X)


def test_pooling_that_is_called_as_a_function_must_become_a_module(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.max_pool2d(self.conv(x), 2)

    files = make_config(Net(), tmp_path, X)
    with pytest.raises(amct.UnsupportedModelError, match=r"(?s)must be quantized.*make it a module"):
        quantize(Net(), files, X)


# --- saving ---


def test_save_before_calibration_names_the_layers(files: Files) -> None:
    quantized = quantize(SmallResNet(), files, X)
    with pytest.raises(amct.CalibrationError, match=r"not complete.*conv1, maxpool"):
        files.save(quantized)
    assert not (files.folder / "out").exists()


def test_record_without_weight_factors_is_not_complete(tmp_path: Path) -> None:
    quantized, files = calibrated(SmallResNet(), tmp_path, [(X,)])
    layers = dict(files.record.layers)
    layers["fc"] = dataclasses.replace(layers["fc"], weight=None, shift_bit=())
    write_record(Record(layers), files.record_file)
    with pytest.raises(amct.ExportError, match=r"not complete.*lacks factors of 1 layers: fc"):
        files.save(quantized)


def test_onnx_file_of_another_origin(tmp_path: Path) -> None:
    _, files = calibrated(SmallResNet(), tmp_path, [(X,)])
    model = onnx.load(files.onnx)
    del model.metadata_props[:]
    onnx.save(model, files.onnx)
    with pytest.raises(amct.RecordError, match="of another quantize_model call or has been changed"):
        files.save()
    lines = files.record_file.read_text().splitlines(keepends=True)
    files.record_file.write_text("".join(line for line in lines if not line.startswith("#")))  # as the vendor writes it
    with pytest.raises(amct.ExportError, match="not made by quantize_model"):
        files.save()


def test_damaged_record(tmp_path: Path) -> None:
    _, files = calibrated(SmallResNet(), tmp_path, [(X,)])
    files.record_file.write_text("record {")
    with pytest.raises(amct.RecordError, match=r"record.txt"):
        files.save()


def test_status_of_a_float_model() -> None:
    with pytest.raises(amct.ConfigError, match="contains no model made by quantize_model"):
        amct.update_bn_status(SmallResNet())


def test_layer_that_misses_batches_is_said(tmp_path: Path, log_lines: LogLines) -> None:
    class Sometimes(Decides):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(self.bright(x) + (self.dark(x * 2) if x.mean() > 0 else 0.0))

    model = Sometimes()
    files = make_config(model, tmp_path, X.abs())
    quantized = quantize(copy.deepcopy(model), files, X.abs())
    run(quantized, -X.abs())
    assert any("did not take part" in line and "dark" in line for line in log_lines.warnings)
    run(quantized, X.abs())
    assert files.record.layers["dark"].activations
