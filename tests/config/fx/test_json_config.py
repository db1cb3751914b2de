"""config.json: round trips, the samples of HiSilicon's AMCT manual, and errors with their places."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hotwheels.amct_pytorch.config.fx.expand import expand
from hotwheels.amct_pytorch.config.fx.json_config import check_any_enabled, read_config, write_config
from hotwheels.amct_pytorch.config.layers.quant_config import LayerConfig, QuantConfig, QuantizerConfig
from hotwheels.amct_pytorch.errors import ConfigError
from tests.support.graphs import graph, node, small_net

DATA = Path(__file__).parents[1] / "data"
ULQ = {"quantizer": "UlqFakeQuantize", "quantizer_args": {"num_bits": 8}}
FIXED = {"quantizer": "FixedFakeQuantize", "quantizer_args": {"scale": 1, "zero_point": 3}}


def written(folder: Path, document: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_default_config_is_that_of_the_manual(tmp_path: Path) -> None:
    model = graph(node("add", "add", 2), node("conv1", "conv"), node("fc", "linear"))
    sample = read_config(DATA / "manual_config.json", model)
    assert expand(model, None) == sample
    write_config(sample, tmp_path / "deep" / "config.json")
    manual = json.loads("".join((DATA / "manual_config.json").read_text().split()).replace(",}", "}"))
    assert json.loads((tmp_path / "deep" / "config.json").read_text()) == manual


def test_written_config_is_read_back_equal(tmp_path: Path, log_lines) -> None:
    config = expand(small_net(), None)
    write_config(config, tmp_path / "c.json")
    assert read_config(tmp_path / "c.json", small_net()) == config
    assert list(config.layers) == ["conv1", "maxpool", "add", "matmul", "softsign", "fc"]
    assert not log_lines.warnings


def test_fixed_sample_of_the_manual(log_lines) -> None:
    model = graph(node("conv1", "conv"), node("maxpool", "max_pool"))
    layers = read_config(DATA / "manual_fixed.json", model).layers
    assert list(layers) == ["conv1", "maxpool"]  # graph order, not the file's
    assert layers["maxpool"].activations[0].args == {"scale": 0.0118393, "zero_point": -128, "num_bits": 8}
    assert layers["conv1"].weight == QuantizerConfig(
        "FixedFakeQuantize", {"scale": [0.010429775, 0.009767545], "num_bits": 8}
    )
    assert not log_lines.warnings


def test_custom_sample_of_the_manual_with_its_missing_comma(log_lines) -> None:
    layers = read_config(DATA / "manual_custom.json", graph(node("conv1", "add", 2))).layers
    assert [one.quantizer for one in layers["conv1"].activations] == ["torch.quantization.FakeQuantize"] * 2
    assert layers["conv1"].activations[0].args["ch_axis"] == 0
    assert len(log_lines.warnings) == 1
    assert "a comma is missing" in log_lines.warnings[0]


def test_deleted_layer_is_absent(tmp_path: Path) -> None:
    path = written(tmp_path, {"fc": {"quant_enable": True}})
    assert list(read_config(path, small_net()).layers) == ["fc"]


def test_one_object_stands_for_all_inputs(tmp_path: Path) -> None:
    path = written(tmp_path, {"add": {"quant_enable": True, "activation_quant_params": ULQ}})
    layer = read_config(path, small_net()).layers["add"]
    assert layer.activations == (QuantizerConfig("UlqFakeQuantize", {"num_bits": 8}),) * 2


def test_missing_sections_have_defaults(tmp_path: Path) -> None:
    layer = read_config(written(tmp_path, {"conv1": {"quant_enable": True}}), small_net()).layers["conv1"]
    assert layer == expand(small_net(), None).layers["conv1"]


@pytest.mark.parametrize("value", [False, "false", "no"])
@pytest.mark.parametrize("key", ["quant_enable", "retrain_enable"])
def test_both_names_of_the_switch(key: str, value: object, tmp_path: Path) -> None:
    config = read_config(written(tmp_path, {"fc": {key: value}}), small_net())
    assert not config.layers["fc"].quant_enable


def test_values_of_a_layer_that_is_off_are_not_checked(tmp_path: Path) -> None:
    entry = {
        "quant_enable": False,
        "activation_quant_params": [{"quantizer": "Old", "quantizer_args": {"num_bits": 3}}],
    }
    config = read_config(written(tmp_path, {"fc": entry}), small_net())
    assert config.layers["fc"].activations == (QuantizerConfig("Old", {"num_bits": 3}),)


def test_weight_of_a_layer_without_weight_is_ignored(tmp_path: Path, log_lines) -> None:
    section = {"quantizer": "ArqWeightFakeQuantize"}
    path = written(tmp_path, {"maxpool": {"quant_enable": True, "weight_quant_params": section}})
    assert read_config(path, small_net()).layers["maxpool"].weight is None
    assert "weight_quant_params is ignored, the layer has no weight" in log_lines.warnings[0]


WRONG = {
    "unknown layer": ({"conv9": {}}, "Layer 'conv9' in {path} is not in the model. Did you mean 'conv1'"),
    "unquantizable": ({"view": {}}, "Layer 'view' in {path} cannot be quantized: its input is a size."),
    "no op": ({"x": {}}, "Layer 'x' in {path} cannot be quantized: its operation is not in the list"),
    "not an object": ([], "The document in {path} is []; an object with keys is expected."),
    "layer not an object": ({"fc": 3}, "Layer 'fc' in {path} is 3; an object with keys is expected."),
    "switch": (
        {"fc": {"quant_enable": "maybe"}},
        "Layer 'fc' in {path}: quant_enable is 'maybe'; allowed: true, false.",
    ),
    "two switches": (
        {"fc": {"quant_enable": True, "retrain_enable": False}},
        "Layer 'fc' in {path}: {{'quant_enable': True, 'retrain_enable': False}}; quant_enable and retrain_enable mean",
    ),
    "too many": (
        {"fc": {"quant_enable": True, "activation_quant_params": [ULQ, ULQ]}},
        "Layer 'fc' in {path}: activation_quant_params has 2 entries, but the layer has 1 quantizable inputs (",
    ),
    "too few": (
        {"add": {"quant_enable": True, "activation_quant_params": [ULQ]}},
        "Layer 'add' in {path}: activation_quant_params has 1 entries",
    ),
    "value": (
        {"add": {"quant_enable": True, "activation_quant_params": [ULQ, ULQ | {"quantizer_args": {"num_bits": 7}}]}},
        "Layer 'add' in {path}, activation_quant_params[1], UlqFakeQuantize: num_bits is 7; allowed: 4, 8",
    ),
    "weight": (
        {"conv1": {"quant_enable": True, "weight_quant_params": {"quantizer": "Arq"}}},
        "Layer 'conv1' in {path}, weight_quant_params, Arq: there is no quantizer 'Arq'.",
    ),
    "no switch": ({"fc": {}}, "Layer 'fc' in {path} has no quant_enable; it is required: true or false."),
    "no quantizer": (
        {"add": {"quant_enable": True, "activation_quant_params": [ULQ, {"quantizer_args": {"num_bits": 8}}]}},
        "Layer 'add' in {path}, activation_quant_params[1] has no quantizer; it is required, such as 'Ulq",
    ),
    "no quantizer of the weight": (
        {"fc": {"retrain_enable": True, "weight_quant_params": {}}},
        "Layer 'fc' in {path}, weight_quant_params has no quantizer; it is required, such as",
    ),
    "an empty quantizer": (
        {"fc": {"quant_enable": True, "weight_quant_params": {"quantizer": ""}}},
        "Layer 'fc' in {path}, weight_quant_params has no quantizer; it is required, such as",
    ),
    "fixed matmul": (
        {"matmul": {"quant_enable": True, "activation_quant_params": FIXED}},
        "Layer 'matmul' in {path}, input 0: zero_point is 3; inputs of a matmul have no offset, only 0 is allowed.",
    ),
}


@pytest.mark.parametrize(("document", "message"), WRONG.values(), ids=WRONG)
def test_error_names_file_layer_key_and_value(document: object, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, document)
    with pytest.raises(ConfigError) as raised:
        read_config(path, small_net())
    assert str(raised.value).startswith(message.format(path=path))


def test_duplicate_layer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"fc": {},\n "fc": {}}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"c\.json, line 2, column 2: key 'fc' occurs twice"):
        read_config(path, small_net())


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Configuration file '.*c\.json' does not exist\."):
        read_config(tmp_path / "c.json", small_net())


def test_no_enabled_layer_has_the_manual_s_text() -> None:
    config = QuantConfig({"a": LayerConfig(quant_enable=False)})
    with pytest.raises(ConfigError) as raised:
        check_any_enabled(config)
    text = "No quant enable layer in quant config file, please check the quant config file."
    assert str(raised.value).startswith(text)
    check_any_enabled(QuantConfig({"a": LayerConfig()}))
