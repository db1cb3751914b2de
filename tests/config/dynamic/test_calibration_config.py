"""config.json of calibration on the dynamic path: the sample of HiSilicon's AMCT manual, round trips, errors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.config.dynamic.calibration_config import (
    CalibrationConfig,
    read_calibration_config,
    to_quant_config,
    write_calibration_config,
)
from hotwheels.amct_pytorch.config.dynamic.document_globals import BnUpdateConfig
from hotwheels.amct_pytorch.config.dynamic.expand_dynamic import expand_calibration
from hotwheels.amct_pytorch.config.dynamic.simple_cfg import SimpleCalibrationConfig, parse_simple_calibration
from hotwheels.amct_pytorch.config.layers.layer_rules import apply_rules
from hotwheels.amct_pytorch.config.layers.quant_config import LayerConfig, QuantizerConfig
from hotwheels.amct_pytorch.errors import ConfigError
from hotwheels.amct_pytorch.quantizers.registry import build_activation, build_weight
from tests.support.module_graphs import graph, matmul, module, residual_net

DATA = Path(__file__).parents[1] / "data"
IFMR = {
    "num_bits": 8,
    "max_percentile": 0.999999,
    "min_percentile": 0.999999,
    "search_start": 0.7,
    "search_end": 1.3,
    "search_step": 0.01,
}
DATA_ENTRY = QuantizerConfig("UlqFakeQuantize", IFMR)
ADDED = {"observer": "IFMRObserver", "batch_num": 1, "with_offset": True}


def arq(channel_wise: bool) -> QuantizerConfig:
    return QuantizerConfig("ArqWeightFakeQuantize", {"num_bits": 8, "channel_wise": channel_wise})


def written(folder: Path, document: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def expanded(text: str) -> CalibrationConfig:
    return expand_calibration(residual_net(), parse_simple_calibration(text, "a.cfg"))


def test_sample_of_the_manual(log_lines) -> None:
    config = read_calibration_config(DATA / "manual_calibration_config.json", residual_net())
    assert config == CalibrationConfig(
        batch_num=2,
        layers={
            "conv1": LayerConfig(True, (DATA_ENTRY,), arq(True)),
            "layer1.0.conv1": LayerConfig(True, (DATA_ENTRY,), arq(False)),
        },
    )
    assert not log_lines.warnings


def test_what_the_manual_shows_is_written_again(tmp_path: Path) -> None:
    sample = DATA / "manual_calibration_config.json"
    write_calibration_config(read_calibration_config(sample, residual_net()), tmp_path / "a" / "c.json")
    manual, ours = json.loads(sample.read_text()), json.loads((tmp_path / "a" / "c.json").read_text())
    assert _contains(ours, manual)
    assert list(ours) == [*list(manual)[:5], "update_bn", "conv1", "layer1.0.conv1"]
    assert ours["conv1"]["activation_quant_params"][0]["num_bits"] == 8
    assert ours["conv1"]["weight_quant_params"] == {"wts_algo": "arq_quantize", "num_bits": 8, "channel_wise": True}


def _contains(ours: object, manual: object) -> bool:
    """Whether every value of HiSilicon's AMCT manual stands in ours, which may say more."""
    if isinstance(manual, dict) and isinstance(ours, dict):
        return all(key in ours and _contains(ours[key], value) for key, value in manual.items())
    if isinstance(manual, list) and isinstance(ours, list):
        return len(manual) == len(ours) and all(map(_contains, ours, manual))
    return ours == manual


def test_default_layers(log_lines) -> None:
    layers = expand_calibration(residual_net(), None).layers
    assert list(layers) == [
        "conv1", "maxpool", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.eltwise_add", "layer1.1.conv2",
        "layer1.2.conv2", "softsign", "fc",
    ]  # fmt: skip
    assert layers["conv1"] == LayerConfig(True, (DATA_ENTRY,), arq(True))
    assert layers["fc"] == LayerConfig(True, (DATA_ENTRY,), arq(False))
    assert layers["layer1.0.eltwise_add"] == LayerConfig(True, (DATA_ENTRY,) * 2, None)
    assert layers["softsign"] == LayerConfig(False, (DATA_ENTRY,), None)
    assert not log_lines.warnings


def test_cfg_sample_of_the_manual(log_lines) -> None:
    text = (DATA / "manual_calibration.cfg").read_text(encoding="utf-8")
    config = expanded(text)
    narrow = {**IFMR, "num_bits": 12, "search_start": 0.8, "search_end": 1.2, "search_step": 0.02}
    snq = {"num_bits": 4, "channel_wise": True, "max_iteration": 1000, "cali_min_distance": 1e-10}
    assert config.layers["conv1"] == LayerConfig(
        True,
        (QuantizerConfig("UlqFakeQuantize", {**IFMR, "num_bits": 12}),),
        QuantizerConfig("SnqWeightFakeQuantize", {**snq, "init_algo": "uniform"}),
    )
    assert config.layers["layer1.2.conv2"] == LayerConfig(
        True, (QuantizerConfig("UlqFakeQuantize", narrow),), arq(True)
    )
    assert config.layers["fc"] == LayerConfig(True, (QuantizerConfig("UlqFakeQuantize", narrow),), arq(False))
    assert (config.batch_num, config.update_bn, config.skip_fusion_layers) == (2, True, ("layer1.1.conv2",))
    # spec 16, contradiction 11: the pair that the hardware does not compute is said, and used.
    assert len(log_lines.warnings) == 4
    assert all("activations of 12 bits need weights of 8 bits, found 4" in line for line in log_lines.warnings)


def test_written_cfg_sample_is_read_back_equal(tmp_path: Path) -> None:
    config = expanded((DATA / "manual_calibration.cfg").read_text(encoding="utf-8"))
    write_calibration_config(config, tmp_path / "c.json")
    assert read_calibration_config(tmp_path / "c.json", residual_net()) == config
    document = json.loads((tmp_path / "c.json").read_text())
    assert document["bn_update_config"] == {"bn_momentum": 0.1, "bn_update_iterations": 30}
    assert document["conv1"]["weight_quant_params"] == {
        "wts_algo": "snq_quantize",
        "num_bits": 4,
        "channel_wise": True,
        "max_iteration": 1000,
        "min_distance": 1e-10,
        "init_algo": "uniform",
    }


def test_quantizers_have_the_global_settings() -> None:
    config = expanded("batch_num: 3 activation_offset: false")
    layer = to_quant_config(config, residual_net()).layers["conv1"]
    assert layer.activations[0].args == {**IFMR, "observer": "IFMRObserver", "batch_num": 3, "with_offset": False}
    assert layer.weight == arq(True)


def test_offset_of_a_layer_beats_the_global_one() -> None:
    config = expanded("activation_offset: false common_config { ifmr_quantize { with_offset: true } }")
    assert config.layers["conv1"].activations[0].args["with_offset"] is True
    assert to_quant_config(config, residual_net()).layers["conv1"].activations[0].args["with_offset"] is True


def test_matmul_has_no_offset_and_the_quantizer_of_other_layers(log_lines) -> None:
    model = graph(matmul("attention.matmul", "x", "x"))
    config = expand_calibration(model, None)
    inputs = to_quant_config(config, model).layers["attention.matmul"].activations
    # Not LUQ as on the FX path: with another class it could never agree with a convolution that reads the same tensor.
    assert inputs == (QuantizerConfig("UlqFakeQuantize", {**IFMR, **ADDED, "with_offset": False}),) * 2
    assert not log_lines.warnings


def test_matmul_with_offset_is_corrected_once(tmp_path: Path, log_lines) -> None:
    model = graph(matmul("matmul", "x", "x"))
    path = written(tmp_path, {"matmul": {"activation_quant_params": {"with_offset": True, "num_bits": 16}}})
    config = read_calibration_config(path, model)
    assert [one.args["num_bits"] for one in config.layers["matmul"].activations] == [16, 8]
    assert [one.args["with_offset"] for one in config.layers["matmul"].activations] == [False, False]
    assert len(log_lines.warnings) == 3
    to_quant_config(config, model)
    assert len(log_lines.warnings) == 3


def test_every_quantizer_can_be_built(log_lines) -> None:
    config = expanded((DATA / "manual_calibration.cfg").read_text(encoding="utf-8"))
    before = len(log_lines.warnings)
    for name, layer in to_quant_config(config, residual_net()).layers.items():
        for one in layer.activations if layer.quant_enable else ():
            assert build_activation(one, name).observer.batch_num == 2
        if layer.weight is not None:
            assert build_weight(layer.weight, name, 4, name != "fc").num_bits in (4, 8)
    assert len(log_lines.warnings) == before


PRIORITIES = {
    "common": ("common_config { ifmr_quantize { num_bits: 10 } }", 10, True),
    "type over common": (
        'common_config { ifmr_quantize { num_bits: 10 } } override_layer_types { layer_type: "Conv" '
        "calibration_config { ifmr_quantize { num_bits: 11 } } }",
        11,
        True,
    ),
    "name over type": (
        'override_layer_configs { layer_name: "layer1.0.conv1" calibration_config { ifmr_quantize { num_bits: 12 } } } '
        'override_layer_types { layer_type: "Conv" calibration_config { ifmr_quantize { num_bits: 11 } } }',
        12,
        True,
    ),
    "section from the lower level": (
        'common_config { ifmr_quantize { num_bits: 10 } } override_layer_configs { layer_name: "layer1.0.conv1" '
        "calibration_config { arq_quantize { channel_wise: true } } }",
        10,
        True,
    ),
    "skip wins": (
        'skip_layers: "layer1.0.conv1" override_layer_configs { layer_name: "layer1.0.conv1" '
        "calibration_config { ifmr_quantize { num_bits: 12 } } }",
        12,
        False,
    ),
    "container": ('skip_layers: "layer1.0"', 8, False),
    "not a container": ('skip_layers: "layer1.0.conv"', 8, True),
    "outer container": ('skip_layers: ["conv1", "layer1"]', 8, False),
    "skipped type": ('skip_layer_types: "Conv"', 8, False),
}


@pytest.mark.parametrize(("text", "bits", "is_enabled"), PRIORITIES.values(), ids=PRIORITIES)
def test_priorities(text: str, bits: int, is_enabled: bool) -> None:
    layer = expanded(text).layers["layer1.0.conv1"]
    assert (layer.activations[0].args["num_bits"], layer.quant_enable) == (bits, is_enabled)


def test_container_skips_all_that_is_in_it(log_lines) -> None:
    layers = expanded('skip_layers: "layer1"').layers
    assert [name for name, one in layers.items() if one.quant_enable] == ["conv1", "maxpool", "fc"]
    assert not log_lines.warnings


def test_naming_a_layer_that_is_off_by_default_quantizes_it() -> None:
    override = 'override_layer_configs { layer_name: "softsign" calibration_config { } }'
    assert expanded(override).layers["softsign"].quant_enable
    by_type = 'override_layer_types { layer_type: "Softsign" calibration_config { } }'
    assert expanded(by_type).layers["softsign"].quant_enable


def test_what_matches_nothing_is_said(log_lines) -> None:
    text = """
        skip_layers: ["layer9", "layer1.0.conv11", "layer1.0.relu"]
        skip_layer_types: "Conv3d"
        skip_fusion_layers: "conv11"
        override_layer_types { layer_type: "Relu" calibration_config { } }
        override_layer_configs { layer_name: "Conv" calibration_config { } }
    """
    expanded(text)
    known = "Known names: 'Conv', 'MaxPool', 'Add', 'Softsign', 'Gemm'."
    starts = [
        "skip_fusion_layers of a.cfg: layer 'conv11' is not in the model. Did you mean 'conv1'",
        "skip_layers of a.cfg: layer 'layer9' is not in the model. ",
        "skip_layers of a.cfg: layer 'layer1.0.conv11' is not in the model. Did you mean 'layer1.0.conv1'",
        "skip_layers of a.cfg: layer 'layer1.0.relu' cannot be quantized: it belongs to the convolution",
        "override_layer_configs of a.cfg: layer 'Conv' is not in the model. ",
        "skip_layer_types of a.cfg: the model has no quantizable layer of type 'Conv3d'. Did you mean 'Conv'?",
        f"override_layer_types of a.cfg: the model has no quantizable layer of type 'Relu'. {known}",
    ]
    assert len(log_lines.warnings) == len(starts)
    for line, start in zip(log_lines.warnings, starts, strict=True):
        assert line.startswith(start)


def test_om_json_sets_the_widths_of_additions_only(log_lines) -> None:
    widths = {"layer1.0.eltwise_add": (16, 8), "conv1": (16,), "gone": (8,)}
    config = expand_calibration(residual_net(), SimpleCalibrationConfig(om_layers=widths))
    assert [one.args["num_bits"] for one in config.layers["layer1.0.eltwise_add"].activations] == [16, 8]
    assert config.layers["conv1"].activations[0].args["num_bits"] == 8
    assert any("layer 'gone' is not in the model" in line for line in log_lines.of("DEBUG"))


def test_s16_keeps_a_configured_width_of_an_addition() -> None:
    simple = parse_simple_calibration("common_config { ifmr_quantize { num_bits: 12 } }", "a.cfg")
    simple = dataclasses.replace(simple, om_layers={"layer1.0.eltwise_add": (16, 8)})
    config = expand_calibration(residual_net(), simple)
    assert [one.args["num_bits"] for one in config.layers["layer1.0.eltwise_add"].activations] == [12, 8]


def test_addition_in_float16_is_off_unless_it_is_named() -> None:
    om = {"layer1.0.eltwise_add": (None, None)}
    simple = SimpleCalibrationConfig(om_layers=om)
    assert not expand_calibration(residual_net(), simple).layers["layer1.0.eltwise_add"].quant_enable
    text = 'override_layer_types { layer_type: "Add" calibration_config { ifmr_quantize { } } }'
    named = SimpleCalibrationConfig(om_layers=om, types=parse_simple_calibration(text, "a.cfg").types)
    assert expand_calibration(residual_net(), named).layers["layer1.0.eltwise_add"].quant_enable


def test_impossible_weight_width_is_8_with_a_warning(log_lines) -> None:
    config = expanded("common_config { arq_quantize { num_bits: 5 } }")
    assert config.layers["conv1"].weight == arq(True)
    assert "num_bits is 5; allowed: 4, 8. 8 is used." in log_lines.warnings[0]


def test_impossible_data_width_is_an_error_with_the_layer() -> None:
    with pytest.raises(ConfigError) as raised:
        expanded("common_config { ifmr_quantize { num_bits: 7 } }")
    where = "Layer 'conv1' in a.cfg, activation_quant_params[0], UlqFakeQuantize"
    assert str(raised.value).startswith(f"{where}: num_bits is 7; allowed: 4, 8")


def test_linear_has_no_channels(log_lines) -> None:
    config = expanded("common_config { arq_quantize { channel_wise: true } }")
    assert config.layers["fc"].weight == arq(False)
    assert log_lines.warnings == [
        "Layer 'fc' in a.cfg: channel_wise is true, but a Linear has no channels; false is used."
    ]


def test_values_of_a_layer_that_is_off_are_not_checked_and_kept(tmp_path: Path) -> None:
    entry = {"act_algo": "old", "num_bits": 3}
    path = written(tmp_path, {"fc": {"quant_enable": False, "activation_quant_params": [entry]}})
    config = read_calibration_config(path, residual_net())
    assert config.layers["fc"].activations == (QuantizerConfig("old", {"num_bits": 3}),)
    write_calibration_config(config, path)
    assert json.loads(path.read_text())["fc"]["activation_quant_params"] == [entry]
    assert to_quant_config(config, residual_net()).layers["fc"] == config.layers["fc"]


def test_globals_are_read_tolerantly(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(
        '{"batch_num": 4.0, // two\n "activation_offset": "no", "skip_fusion_layers": "conv1", "update_bn": "yes",'
        '\n "bn_update_config": {"bn_moving_average_fraction": 0.5,},}',
        encoding="utf-8",
    )
    assert read_calibration_config(path, residual_net()) == CalibrationConfig(
        batch_num=4,
        activation_offset=False,
        skip_fusion_layers=("conv1",),
        update_bn=True,
        bn_update_config=BnUpdateConfig(bn_momentum=0.5),
    )


def test_other_version_is_said(tmp_path: Path, log_lines) -> None:
    path = written(tmp_path, {"version": 2})
    assert read_calibration_config(path, residual_net()).version == 1
    assert log_lines.warnings == [f"{path}: version is 2; allowed: 1. 1 is used."]


def test_settings_that_follow_from_others_are_ignored(tmp_path: Path, log_lines) -> None:
    path = written(tmp_path, {"conv1": {"activation_quant_params": [{"batch_num": 5, "num_bit": 4}]}})
    layer = read_calibration_config(path, residual_net()).layers["conv1"]
    assert layer.activations == (DATA_ENTRY,)
    assert "activation_quant_params[0]: key 'batch_num' is ignored" in log_lines.warnings[0]
    assert "unknown key 'num_bit' is ignored. Did you mean 'num_bits'" in log_lines.warnings[1]


WRONG = {
    "unknown layer": ({"conv9": {}}, "Layer 'conv9' in {path} is not in the model. Did you mean 'conv1'"),
    "unquantizable": ({"layer1.0.relu": {}}, "Layer 'layer1.0.relu' in {path} cannot be quantized: it belongs"),
    "not an object": ([], "The document in {path} is []; an object with keys is expected."),
    "batch_num": ({"batch_num": 0}, "{path}: batch_num is 0; allowed: [1, inf)."),
    "momentum": (
        {"update_bn": True, "bn_update_config": {"bn_momentum": 0}},
        "{path}: bn_update_config: bn_momentum is 0.0; allowed: (0, 1).",
    ),
    "too few": (
        {"layer1.0.eltwise_add": {"activation_quant_params": [{}]}},
        "Layer 'layer1.0.eltwise_add' in {path}: activation_quant_params has 1 entries, but the layer has 2 ",
    ),
    "algorithm": (
        {"fc": {"weight_quant_params": {"wts_algo": "lnq_retrain"}}},
        "Layer 'fc' in {path}, weight_quant_params: wts_algo is 'lnq_retrain'; allowed: arq_quantize, snq_quantize, ",
    ),
    "range": (
        {"fc": {"activation_quant_params": [{"search_range": [1.3, 0.7]}]}},
        "Layer 'fc' in {path}, activation_quant_params[0], UlqFakeQuantize: search_start is 1.3 and search_end is 0.7",
    ),
    "iterations": (
        {"fc": {"weight_quant_params": {"wts_algo": "snq_quantize", "max_iteration": 5}}},
        "Layer 'fc' in {path}, weight_quant_params, SnqWeightFakeQuantize: max_iteration is 5; allowed: [500, 2000].",
    ),
}


@pytest.mark.parametrize(("document", "message"), WRONG.values(), ids=WRONG)
def test_error_names_file_layer_key_and_value(document: object, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, document)
    with pytest.raises(ConfigError) as raised:
        read_calibration_config(path, residual_net())
    assert str(raised.value).startswith(message.format(path=path))


data_entries = st.fixed_dictionaries(
    {},
    optional={
        "act_algo": st.just("ifmr_quantize"),
        "num_bits": st.sampled_from((4, 8, 9, 12, 16, 8.0)),
        "max_percentile": st.sampled_from((0.9, 0.999999, 1.0)),
        "search_range": st.sampled_from(([0.8, 1.2], [0.5, 1.5])),
        "search_step": st.sampled_from((0.01, 0.1)),
        "with_offset": st.booleans(),
    },
)
weight_entries = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={"num_bits": st.sampled_from((4, 8, 3)), "channel_wise": st.booleans(), "eps": st.just(1e-6)},
    ),
    st.fixed_dictionaries(
        {"wts_algo": st.just("snq_quantize")},
        optional={
            "channel_wise": st.booleans(),
            "min_distance": st.sampled_from((1e-10, 1e-4)),
            "init_algo": st.sampled_from(("uniform", "gaussian", "d2sampling")),
        },
    ),
)
layer_entries = st.fixed_dictionaries(
    {},
    optional={
        "quant_enable": st.sampled_from((True, False, "yes")),
        "activation_quant_params": data_entries,
        "weight_quant_params": weight_entries,
    },
)
NET = graph(module("conv", "Conv2d", "x"), module("a.fc", "Linear", "conv"), matmul("a.matmul", "a.fc", "conv"))
documents = st.fixed_dictionaries(
    {},
    optional={
        "batch_num": st.integers(1, 9),
        "activation_offset": st.booleans(),
        "update_bn": st.booleans(),
        "bn_update_config": st.fixed_dictionaries({}, optional={"bn_momentum": st.just(0.3)}),
        "conv": layer_entries,
        "a.fc": layer_entries,
        "a.matmul": layer_entries,
    },
)


@given(documents)
@settings(max_examples=150, deadline=None)
def test_any_document_is_settled_when_read(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    folder = tmp_path_factory.mktemp("config")
    config = read_calibration_config(written(folder, document), NET)
    write_calibration_config(config, folder / "again.json")
    assert read_calibration_config(folder / "again.json", NET) == config
    for name, layer in to_quant_config(config, NET).layers.items():
        assert apply_rules(NET[name], layer, name) == layer
