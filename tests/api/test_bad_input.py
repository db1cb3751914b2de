"""Wrong input raises the right error class with a text that names file, layer, key, nearest names, allowed values."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.config.files.tolerant_json import dump_json, read_json
from tests.support.fx_path import CONFIG, make_config, quantize
from tests.support.log_lines import LogLines


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))
        x = x[:, :, :4, :4] + self.conv2(x)
        return self.head(x.mean((2, 3)).repeat(1, 4)) + torch.matmul(x, x).sum((1, 2, 3)).unsqueeze(1)


def quantizer(name: str = "UlqFakeQuantize", **args: Any) -> dict[str, Any]:
    return {"quantizer": name, "quantizer_args": args}


def data(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"activation_quant_params": list(entries)}


def weight(name: str = "ArqWeightFakeQuantize", **args: Any) -> dict[str, Any]:
    return {"weight_quant_params": quantizer(name, **args)}


# --- config.json ---


@dataclasses.dataclass(frozen=True)
class WrongEntry:
    id: str
    layer: str
    entry: Any
    texts: tuple[str, ...]


_WRONG_ENTRIES = (
    WrongEntry("misspelled layer", "conv", {}, ("Layer 'conv' in ", CONFIG, "is not in the model", "'conv1'")),
    WrongEntry("no layer", "x", {}, ("Layer 'x' in ", CONFIG)),
    WrongEntry("not a list", "conv1", 3, ("Layer 'conv1'", CONFIG)),
    WrongEntry("switch", "conv1", {"quant_enable": "perhaps"}, ("Layer 'conv1'", "quant_enable", "perhaps")),
    WrongEntry(
        "two switches",
        "conv1",
        {"quant_enable": True, "retrain_enable": False},
        ("Layer 'conv1'", "quant_enable and retrain_enable mean the same"),
    ),
    WrongEntry(
        "quantizer",
        "conv1",
        data(quantizer("UlqFakeQuant")),
        ("Layer 'conv1'", "UlqFakeQuant", "Did you mean 'UlqFakeQuantize'"),
    ),
    WrongEntry(
        "weight's quantizer",
        "conv1",
        data(quantizer("ArqWeightFakeQuantize")),
        ("Layer 'conv1'", "not for activations", "UlqFakeQuantize"),
    ),
    WrongEntry(
        "data's quantizer",
        "conv1",
        weight("UlqFakeQuantize"),
        ("Layer 'conv1'", "weight_quant_params", "not for weights"),
    ),
    WrongEntry(
        "observer",
        "conv1",
        data(quantizer(observer="IFMROberver")),
        ("Layer 'conv1'", "IFMROberver", "Did you mean 'IFMRObserver'"),
    ),
    WrongEntry(
        "bits",
        "conv1",
        data(quantizer(num_bits=7)),
        ("Layer 'conv1'", "activation_quant_params[0]", "num_bits", "7", "allowed", "4, 8"),
    ),
    WrongEntry("text for a number", "conv1", data(quantizer(batch_num="many")), ("Layer 'conv1'", "batch_num", "many")),
    WrongEntry("out of range", "conv1", data(quantizer(batch_num=0)), ("Layer 'conv1'", "batch_num", "0", "allowed")),
    WrongEntry(
        "percentile",
        "conv1",
        data(quantizer(max_percentile=1.5)),
        ("Layer 'conv1'", "max_percentile", "1.5", "allowed"),
    ),
    WrongEntry(
        "search",
        "conv1",
        data(quantizer(search_start=1.3, search_end=0.7)),
        ("Layer 'conv1'", "search_start is 1.3", "search_end is 0.7"),
    ),
    WrongEntry(
        "fixed without scale",
        "conv1",
        data(quantizer("FixedFakeQuantize", zero_point=0)),
        ("Layer 'conv1'", "FixedFakeQuantize needs the argument 'scale'"),
    ),
    WrongEntry(
        "fixed zero point",
        "conv1",
        data(quantizer("FixedFakeQuantize", scale=0.1, zero_point=200)),
        ("Layer 'conv1'", "zero_point is 200", "-128 to 127"),
    ),
    WrongEntry(
        "fixed scale",
        "conv1",
        data(quantizer("FixedFakeQuantize", scale=-1.0, zero_point=0)),
        ("Layer 'conv1'", "scale", "-1"),
    ),
    WrongEntry("number of inputs", "add", data(quantizer()), ("Layer 'add'", "has 1 entries", "2 quantizable inputs")),
    WrongEntry(
        "matmul",
        "matmul",
        data(*[quantizer("FixedFakeQuantize", scale=0.1, zero_point=3)] * 2),
        ("Layer 'matmul'", "zero_point is 3", "only 0 is allowed"),
    ),
    WrongEntry(
        "scales",
        "conv1",
        weight("FixedFakeQuantize", scale=[0.1, 0.2]),
        ("Layer 'conv1' has 4 output channels", "2 values"),
    ),
    WrongEntry(
        "no such class",
        "conv1",
        data(quantizer("torch.quantization.FakeQuantise")),
        ("Layer 'conv1'", "torch.quantization.FakeQuantise"),
    ),
    WrongEntry("no such package", "conv1", data(quantizer("nowhere.Quantizer")), ("Layer 'conv1'", "nowhere")),
    WrongEntry(
        "per channel data",
        "conv1",
        data(
            quantizer(
                "torch.quantization.FakeQuantize",
                observer="torch.quantization.MinMaxObserver",
                qscheme="torch.per_channel_symmetric",
                dtype="torch.qint8",
            )
        ),
        ("Layer 'conv1'", "cannot be built", "per_tensor"),
    ),
    WrongEntry(
        "unsigned",
        "conv1",
        data(quantizer("torch.quantization.FakeQuantize", dtype="torch.quint8", quant_min=0, quant_max=255)),
        ("Layer 'conv1'", "signed"),
    ),
    WrongEntry(
        "not a quantizer",
        "conv1",
        data(quantizer("torch.nn.ReLU")),
        ("Layer 'conv1'", "torch.nn.ReLU has no attribute scale and zero_point"),
    ),
)


@pytest.mark.parametrize("case", _WRONG_ENTRIES, ids=[case.id for case in _WRONG_ENTRIES])
def test_wrong_entry_of_the_configuration(case: WrongEntry, tmp_path: Path) -> None:
    path = make_config(Net(), tmp_path)
    document = read_json(path)
    known = document.get(case.layer, {})
    document[case.layer] = known | case.entry if isinstance(case.entry, dict) else case.entry
    path.write_text(dump_json(document))
    with pytest.raises(amct.ConfigError) as caught:
        amct.create_quant_model_fx(path, Net())
    missing = [text for text in case.texts if text not in str(caught.value)]
    assert not missing, str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_misspelled_key_is_a_warning_with_the_nearest_name(tmp_path: Path, log_lines: LogLines) -> None:
    path = make_config(Net(), tmp_path, {"conv1": {**data(quantizer(batch_nums=2)), "quant_enabled": True}})
    amct.create_quant_model_fx(path, Net())
    assert any("batch_nums" in one and "'batch_num'" in one and "'conv1'" in one for one in log_lines.warnings)
    assert any("quant_enabled" in one and "'quant_enable'" in one for one in log_lines.warnings)


def test_all_layers_off(tmp_path: Path) -> None:
    path = make_config(Net(), tmp_path)
    path.write_text(dump_json({name: entry | {"quant_enable": False} for name, entry in read_json(path).items()}))
    text = "No quant enable layer in quant config file, please check the quant config file."
    for content in (path.read_text(), "{}"):
        path.write_text(content)
        with pytest.raises(amct.ConfigError) as caught:
            amct.create_quant_model_fx(path, Net())
        assert str(caught.value).startswith(f"{text} '{path}' has ")


@pytest.mark.parametrize(
    "content", ["", "[]", "{'conv1': }", '{"conv1": {"quant_enable": true}', "conv1: 3", "\x00\x01"]
)
def test_damaged_json_names_the_file(content: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(content)
    with pytest.raises(amct.ConfigError, match=r"damaged.json"):
        amct.create_quant_model_fx(path, Net())


def test_layer_twice_in_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "twice.json"
    path.write_text('{"conv1": {"quant_enable": true}, "conv1": {"quant_enable": false}}')
    with pytest.raises(amct.ConfigError, match="conv1") as caught:
        amct.create_quant_model_fx(path, Net())
    assert "twice.json" in str(caught.value)


# --- simple configuration ---


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("common_config: [1", ("simple.yaml",)),
        ("- conv1", ("simple.yaml",)),
        ("common_config: 3", ("simple.yaml", "common_config")),
        ("skip_layers: {a: 1}", ("simple.yaml", "skip_layers")),
        ("override_layer_configs: [conv1]", ("simple.yaml", "override_layer_configs")),
        ("common_config: {quant_enable: perhaps}", ("simple.yaml", "quant_enable", "perhaps")),
        (
            "common_config: {activation_quant_params: {quantizer: UlqFakeQuantize, quantizer_args: {num_bits: 3}}}",
            ("simple.yaml", "Layer 'conv1'", "num_bits", "3"),
        ),
        (
            "override_layer_configs: [{layer_name: add, activation_quant_params: [{quantizer_args: {num_bits: 8}}]}]",
            ("simple.yaml", "Layer 'add'", "1 entries", "operator.add", "2 quantizable inputs"),
        ),
    ],
)
def test_wrong_simple_configuration(content: str, texts: tuple[str, ...], tmp_path: Path) -> None:
    simple = tmp_path / "simple.yaml"
    simple.write_text(content)
    (tmp_path / CONFIG).write_text("kept")
    with pytest.raises(amct.ConfigError) as caught:
        amct.create_quant_config_fx(tmp_path / CONFIG, Net(), simple)
    assert not [text for text in texts if text not in str(caught.value)], str(caught.value)
    assert (tmp_path / CONFIG).read_text() == "kept"


def test_unmatched_names_are_warnings_with_the_nearest_names(tmp_path: Path, log_lines: LogLines) -> None:
    simple = tmp_path / "simple.yaml"
    simple.write_text("skip_layers: [conv_1]\noverride_layer_configs: [{layer_name: haed}, {layer_name: []}]\n")
    amct.create_quant_config_fx(tmp_path / CONFIG, Net(), simple)
    assert any("'conv_1' is not in the model. Did you mean 'conv1'" in one for one in log_lines.warnings)
    assert any("'haed' is not in the model. Did you mean 'head'" in one for one in log_lines.warnings)
    assert len(log_lines.warnings) == 2


def test_unknown_section_is_a_warning(tmp_path: Path, log_lines: LogLines) -> None:
    simple = tmp_path / "simple.yaml"
    simple.write_text("skip_layer: [conv1]\n")
    amct.create_quant_config_fx(tmp_path / CONFIG, Net(), simple)
    assert any("skip_layer" in one and "'skip_layers'" in one for one in log_lines.warnings)


# --- arguments ---


def _calls(folder: Path) -> dict[str, Any]:
    """Every path and object argument of every function, wrong."""
    model = Net()
    config, there = make_config(model, folder), folder / "there.pt"
    torch.save(model.state_dict(), there)
    quantized = amct.create_quant_model_fx(config, model)
    x = torch.randn(1, 3, 8, 8)
    return {
        "create_quant_config_fx config_file": lambda: amct.create_quant_config_fx(3, model),
        "create_quant_config_fx model": lambda: amct.create_quant_config_fx(config, "model"),
        "create_quant_config_fx config_definition": lambda: amct.create_quant_config_fx(config, model, 3),
        "create_quant_model_fx config_file": lambda: amct.create_quant_model_fx(None, model),
        "create_quant_model_fx model": lambda: amct.create_quant_model_fx(config, None),
        "restore_quant_model_fx pth_file": lambda: amct.restore_quant_model_fx(config, model, 3),
        "restore_quant_model_fx state_dict_name": lambda: amct.restore_quant_model_fx(config, model, there, 3),
        "enable_quantization model": lambda: amct.enable_quantization(3, True),
        "enable_quantization fake_quant": lambda: amct.enable_quantization(quantized, False, "yes"),
        "enable_dump dump_format": lambda: amct.enable_dump(quantized, folder, 3),
        "save_quant_model_fx save_path": lambda: amct.save_quant_model_fx(quantized, 3, x),
        "save_quant_model_fx model": lambda: amct.save_quant_model_fx("model", folder / "out", x),
    }


def test_wrong_types_name_function_and_argument(tmp_path: Path) -> None:
    for name, call in _calls(tmp_path).items():
        function, argument = name.split()
        with pytest.raises(TypeError) as caught:
            call()
        assert function in str(caught.value), name
        assert f"argument '{argument}' must be " in str(caught.value), name


def test_an_unknown_opset_is_named(tmp_path: Path) -> None:
    x = torch.rand(2, 3, 8, 8)
    quantized = quantize(Net(), tmp_path, [(x,)])
    with pytest.raises(amct.AmctError, match=r"opset_version 99 is not known: onnx .* has opsets up to \d+"):
        amct.save_quant_model_fx(quantized, tmp_path / "net", x, onnx_export_setting={"opset_version": 99})
    assert not list(tmp_path.glob("net*"))


def test_refine_names_what_is_no_batch_and_sizes_unlike_those_of_calibration(tmp_path: Path) -> None:
    quantized = quantize(Net(), tmp_path, [(torch.rand(2, 3, 8, 8),)])
    with pytest.raises(TypeError, match=r"refine: a batch of the data has no tensor, but \(str\)"):
        amct.refine(quantized, ["images"])
    with pytest.raises(amct.CalibrationError) as caught:
        amct.refine(quantized, [torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8)], progress=False)
    text = "refine: batch 1 of 'data' does not fit the model: 'x' is [2, 1, 8, 8], in calibration it was [2, 3, 8, 8]."
    assert str(caught.value).startswith(text)
    with pytest.raises(amct.CalibrationError, match="'x' is of type dict, in calibration it was a tensor"):
        amct.refine(quantized, [{"image": torch.rand(2, 3, 8, 8)}], progress=False)


LABELLED = (torch.rand(2, 3, 8, 8), torch.arange(2))
TAKERS = {
    "refine": lambda model, quantized, path: amct.refine(quantized, [LABELLED]),
    "auto_quantize": lambda model, quantized, path: amct.auto_quantize(model, [LABELLED], budget=1.2),
    "QuantAnalyzer": lambda model, quantized, path: amct.QuantAnalyzer(quantized, LABELLED, path),
    "QuantAnalyzer of a float model": lambda model, quantized, path: amct.QuantAnalyzer(model, LABELLED, path),
    "QuantAnalyzer with more": lambda model, quantized, path: amct.QuantAnalyzer(
        model, LABELLED[0], path, more_inputs=[LABELLED]
    ),
    "check_model": lambda model, quantized, path: amct.check_model(model, LABELLED),
    "check_model of a quantized one": lambda model, quantized, path: amct.check_model(quantized, LABELLED),
}


@pytest.mark.parametrize(("name", "call"), TAKERS.items(), ids=TAKERS)
def test_labels_in_the_data_are_called_so(name: str, call: Callable[..., object], tmp_path: Path) -> None:
    model = Net().eval()
    quantized = quantize(model, tmp_path, [LABELLED[:1]])
    with pytest.raises(amct.CalibrationError) as caught:
        call(model, quantized, tmp_path / "out")
    text = str(caught.value)
    assert text.startswith(f"{name.split()[0]}: ")
    assert " has 2 values, but forward takes x. Labels do not belong in it: pass " in text
    is_list = name in ("refine", "auto_quantize")
    assert ("[batch[0] for batch in data]" in text) == is_list
    assert ("batch 0 of 'data'" in text) == is_list


NO_DATA = {
    "refine": lambda model, quantized, data: amct.refine(quantized, data),
    "auto_quantize": lambda model, quantized, data: amct.auto_quantize(model, data, budget=1.2),
}


@pytest.mark.parametrize(("name", "call"), NO_DATA.items(), ids=NO_DATA)
@pytest.mark.parametrize("data", [None, 5, "images", {}], ids=str)
def test_what_is_no_data_is_an_error_of_the_argument(
    name: str, call: Callable[..., object], data: object, tmp_path: Path
) -> None:
    quantized = quantize(Net(), tmp_path, [(torch.rand(2, 3, 8, 8),)])
    with pytest.raises(TypeError, match=f"{name}: argument 'data' must be a tensor, or an iterable of batches"):
        call(Net(), quantized, data)


@pytest.mark.parametrize(("name", "call"), NO_DATA.items(), ids=NO_DATA)
def test_nan_in_the_data_is_called_so(name: str, call: Callable[..., object], tmp_path: Path) -> None:
    quantized = quantize(Net(), tmp_path, [(torch.rand(2, 3, 8, 8),)])
    data = [torch.rand(2, 3, 8, 8), torch.full((2, 3, 8, 8), math.nan)]
    with pytest.raises(amct.CalibrationError, match=f"{name}: batch 1 of 'data' has NaN in a tensor of shape"):
        call(Net(), quantized, data)


def test_what_the_model_makes_infinite_names_the_layer_and_the_batch(tmp_path: Path) -> None:
    class Divides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(1 / x)

    data = [torch.rand(4, 3, 8, 8) + 1, torch.zeros(4, 3, 8, 8)]
    quantized = quantize(Divides(), tmp_path, [(data[0],)])
    with pytest.raises(amct.CalibrationError, match="refine: layer 'conv', batch 1: its input holds NaN or inf"):
        amct.refine(quantized, data, progress=False)


def test_a_loader_is_no_input_of_an_analysis(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(torch.rand(2, 3, 8, 8)))
    for call in (amct.check_model, lambda model, data: amct.QuantAnalyzer(model, data, tmp_path)):
        for data in (loader, (None,)):
            with pytest.raises(TypeError, match=r"argument 'inputs' has no tensor, but \(\w+\)"):
                call(Net(), data)


def test_golden_inputs_with_labels_are_named(tmp_path: Path) -> None:
    quantized = quantize(Net(), tmp_path, [LABELLED[:1]])
    with pytest.raises(amct.ExportError, match="argument 'golden_inputs' has 2 values, but forward takes x"):
        amct.save_quant_model_fx(quantized, tmp_path / "net", LABELLED[0], golden_inputs=LABELLED)


def test_input_data_that_the_model_does_not_take_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        amct.create_quant_config_fx(tmp_path / CONFIG, Net(), input_data=torch.rand(2, 1, 8, 8))
    assert (
        "raises it when it is called with input_data: tensors of the sizes [2, 1, 8, 8]" in caught.value.__notes__[-1]
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_reports_that_cannot_be_written_is_named_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    with pytest.raises(PermissionError, match=r"QuantAnalyzer\(\): argument 'save_dir': you may not write .*closed"):
        amct.QuantAnalyzer(Net(), torch.rand(2, 3, 8, 8), folder / "reports").analyze()


def test_missing_files(tmp_path: Path) -> None:
    model, config = Net(), make_config(Net(), tmp_path)
    missing = tmp_path / "missing.file"
    calls = {
        "config_definition": lambda: amct.create_quant_config_fx(config, model, missing),
        "config_file": lambda: amct.create_quant_model_fx(missing, model),
        "pth_file": lambda: amct.restore_quant_model_fx(config, model, missing),
    }
    for argument, call in calls.items():
        with pytest.raises(FileNotFoundError, match=f"'{argument}'.*missing.file"):
            call()


def test_wrong_dump_format(tmp_path: Path) -> None:
    model = Net()
    quantized = amct.create_quant_model_fx(make_config(model, tmp_path), model)
    with pytest.raises(amct.ConfigError, match=r"'.csv'; allowed: .npy, .float, .txt"):
        amct.enable_dump(quantized, tmp_path, "csv")


@pytest.mark.parametrize("call", [lambda model: amct.enable_quantization(model, True), amct.enable_dump])
def test_float_model_has_nothing_to_switch(call: Any) -> None:
    with pytest.raises(amct.ConfigError, match="Net contains no quantized model"):
        call(Net())


# --- checkpoints ---


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    quantized = quantize(Net().eval(), tmp_path, [(torch.randn(2, 3, 8, 8),)])
    torch.save({"weights": quantized.state_dict(), "epoch": 3}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_an_entry_for_a_node_that_is_part_of_another_layer_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A configuration may be older than the rule that joins the two nodes."""
    config = make_config(Net(), tmp_path)
    document = read_json(config)
    document["relu"] = document["conv1"]
    config.write_text(dump_json(document))
    quantized = amct.create_quant_model_fx(config, Net())
    assert "relu" not in quantized.quantized_layers
    assert "Layer 'relu'" in caplog.text and "belongs to the convolution 'conv1'" in caplog.text


@pytest.mark.parametrize("key", [[], ["weight"]])
def test_wrong_state_dict_name_lists_the_keys(key: list[str], saved: Path) -> None:
    with pytest.raises(amct.ConfigError, match="Its keys: weights, epoch") as caught:
        amct.restore_quant_model_fx(saved.with_name(CONFIG), Net(), saved, *key)
    assert "model.pt" in str(caught.value)


def test_state_of_another_model_is_refused(saved: Path) -> None:
    class Other(Net):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 4, 5)

    with pytest.raises(amct.ConfigError, match=r"model.pt.*does not fit") as caught:
        amct.restore_quant_model_fx(saved.with_name(CONFIG), Other(), saved, "weights")
    assert "conv1.weight" in str(caught.value)


def test_state_of_another_configuration_is_refused(saved: Path) -> None:
    config = read_json(saved.with_name(CONFIG))
    del config["conv2"]
    saved.with_name(CONFIG).write_text(dump_json(config))
    with pytest.raises(amct.ConfigError, match=r"only the state has: 'conv2'"):
        amct.restore_quant_model_fx(saved.with_name(CONFIG), Net(), saved, "weights")


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_file_that_is_no_checkpoint(content: bytes, saved: Path) -> None:
    saved.write_bytes(content)
    with pytest.raises(amct.ConfigError, match=r"model.pt"):
        amct.restore_quant_model_fx(saved.with_name(CONFIG), Net(), saved)


def test_pickled_objects_are_not_loaded(saved: Path) -> None:
    torch.save(Net(), saved)
    with pytest.raises(amct.ConfigError, match=r"model.pt.*not a checkpoint of tensors"):
        amct.restore_quant_model_fx(saved.with_name(CONFIG), Net(), saved)


# --- models ---


def test_quantized_model_is_refused(tmp_path: Path) -> None:
    config = make_config(Net(), tmp_path)
    quantized = amct.create_quant_model_fx(config, Net())
    for call in (amct.create_quant_config_fx, amct.create_quant_model_fx):
        with pytest.raises(amct.UnsupportedModelError, match="quantized already"):
            call(config, nn.Sequential(quantized))


def test_model_that_cannot_be_copied_is_refused(tmp_path: Path) -> None:
    model = Net()
    model.last = model.conv1.weight * 2
    with pytest.raises(amct.UnsupportedModelError, match="Net cannot be copied"):
        amct.create_quant_config_fx(tmp_path / CONFIG, model)
    assert not (tmp_path / CONFIG).exists()


def test_untraceable_model_shows_the_line(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                return x
            return -x

    with pytest.raises(amct.UnsupportedModelError, match="control flow") as caught:
        amct.create_quant_config_fx(tmp_path / CONFIG, Branches())
    assert "if x.sum() > 0:" in str(caught.value)
    assert "fx.symbolic_trace异常场景汇总" in str(caught.value)


def test_model_without_quantizable_layer(tmp_path: Path) -> None:
    path = make_config(nn.Identity(), tmp_path)
    assert read_json(path) == {}
    with pytest.raises(amct.ConfigError, match="No quant enable layer in quant config file"):
        amct.create_quant_model_fx(path, nn.Identity())


def test_errors_are_one_family() -> None:
    for error in ("ConfigError", "UnsupportedModelError", "CalibrationError", "RecordError", "ExportError"):
        assert issubclass(getattr(amct, error), amct.AmctError)
