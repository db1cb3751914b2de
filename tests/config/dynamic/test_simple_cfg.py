"""The simple .cfg: the samples of HiSilicon's AMCT manual, aliases, and errors with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.config.arguments.section import Section
from hotwheels.amct_pytorch.config.dynamic.document_globals import BnUpdateConfig
from hotwheels.amct_pytorch.config.dynamic.simple_cfg import (
    SimpleCalibrationConfig,
    SimpleRetrainConfig,
    parse_simple_calibration,
    parse_simple_retrain,
    read_simple_calibration,
    read_simple_retrain,
    simple_calibration,
)
from hotwheels.amct_pytorch.config.layers.rule import Rule
from hotwheels.amct_pytorch.errors import ConfigError

DATA = Path(__file__).parents[1] / "data"
IFMR_12 = {
    "search_start": 0.8,
    "search_end": 1.2,
    "search_step": 0.02,
    "max_percentile": 0.999999,
    "min_percentile": 0.999999,
    "num_bits": 12,
}
SNQ = {
    "channel_wise": True,
    "max_iteration": 1000,
    "min_distance": 1e-10,
    "init_algo": "uniform",
    "num_bits": 4,
}


def test_calibration_sample_of_the_manual() -> None:
    text = (DATA / "manual_calibration.cfg").read_text(encoding="utf-8")
    assert parse_simple_calibration(text, "quant.cfg") == SimpleCalibrationConfig(
        batch_num=2,
        activation_offset=True,
        do_fusion=True,
        skip_fusion_layers=("layer1.1.conv2",),
        update_bn=True,
        bn_update_config=BnUpdateConfig(bn_momentum=0.1, bn_update_iterations=30),
        mapping_file="./retrain_conf/inst.om.json",
        common=Rule(
            activations=Section(None, IFMR_12 | {"search_start": 0.7, "search_end": 1.3, "search_step": 0.01}),
            weight=Section("SnqWeightFakeQuantize", SNQ),
        ),
        types=(
            Rule(
                names=("Gemm",),
                activations=Section(None, IFMR_12),
                weight=Section("ArqWeightFakeQuantize", {"channel_wise": False}),
            ),
        ),
        layers=(
            Rule(
                names=("layer1.2.conv2",),
                activations=Section(None, IFMR_12),
                weight=Section("ArqWeightFakeQuantize", {"channel_wise": True, "num_bits": 8}),
            ),
        ),
    )


def test_retrain_sample_of_the_manual() -> None:
    text = (DATA / "manual_retrain.cfg").read_text(encoding="utf-8")
    lnq = {"channel_wise": False, "num_bits": 4, "clip_max": 3.0, "cluster_freq": 1200}
    assert parse_simple_retrain(text, "quant.cfg") == SimpleRetrainConfig(
        mapping_file="./retrain_conf/inst.om.json",
        common=Rule(activations=Section("LuqActivationFakeQuantize", {"num_bits": 8})),
        types=(Rule(names=("Gemm",), weight=Section("LnqFakeQuantize", lnq)),),
        layers=(
            Rule(
                names=("Conv",),
                activations=Section("UlqFakeQuantize", {"clip_max": 3.0, "clip_min": -3.0}),
                weight=Section("ArqWeightFakeQuantize", {"channel_wise": True}),
            ),
        ),
    )


def test_empty_file_says_nothing() -> None:
    assert parse_simple_calibration("", "a.cfg") == SimpleCalibrationConfig()
    assert parse_simple_retrain("", "a.cfg") == SimpleRetrainConfig()


@pytest.mark.parametrize(
    ("algorithm", "section"),
    {
        "ulq_retrain": Section("UlqFakeQuantize", {"num_bits": 12}),
        "ulq_quantize": Section("UlqFakeQuantize", {"num_bits": 12}),
        "luq_retrain": Section("LuqActivationFakeQuantize", {"num_bits": 12}),
        "luq_quantize": Section("LuqActivationFakeQuantize", {"num_bits": 12}),
        "fixed_quant_param_retrain": Section("FixedFakeQuantize", {"num_bits": 12}),
    }.items(),
)
def test_both_spellings_of_data_algorithms(algorithm: str, section: Section) -> None:
    text = f"retrain_data_quant_config {{ {algorithm} {{ num_bits: 12 }} }}"
    assert parse_simple_retrain(text, "a.cfg").common.activations == section


@pytest.mark.parametrize(
    ("algorithm", "quantizer"),
    {
        "arq_retrain": "ArqWeightFakeQuantize",
        "arq_quantize": "ArqWeightFakeQuantize",
        "lnq_retrain": "LnqFakeQuantize",
        "lnq_quantize": "LnqFakeQuantize",
    }.items(),
)
def test_both_spellings_of_weight_algorithms(algorithm: str, quantizer: str) -> None:
    text = f"retrain_weight_quant_config {{ {algorithm} {{ }} }}"
    assert parse_simple_retrain(text, "a.cfg").common.weight == Section(quantizer, {})


def test_alias_of_bn_momentum_and_ignored_dump_folder(log_lines) -> None:
    text = 'update_bn: true bn_update_config { bn_moving_average_fraction: 0.25 bn_dump_dir: "/tmp" }'
    assert parse_simple_calibration(text, "a.cfg").bn_update_config == BnUpdateConfig(bn_momentum=0.25)
    assert not log_lines.warnings


def test_bn_update_config_without_update_bn_is_said(log_lines) -> None:
    simple = parse_simple_calibration("bn_update_config { bn_momentum: 0.25 }", "a.cfg")
    assert simple.bn_update_config == BnUpdateConfig()
    assert log_lines.warnings == ["a.cfg: bn_update_config is ignored, since update_bn is false."]


WRONG = {
    "syntax": ("batch_num: 2\nskip_layers }", "a.cfg, line 2: "),
    "unknown field": ('batch_num: 2\nskip_layer: "conv1"', "a.cfg, line 2: "),
    "negative": ("batch_num: -1", "a.cfg, line 1: "),
    "batch_num": ("batch_num: 0", "a.cfg: batch_num is 0; allowed: [1, inf)."),
    "momentum": (
        "update_bn: true bn_update_config { bn_momentum: 1.0 }",
        "a.cfg: bn_update_config: bn_momentum is 1.0; allowed: (0, 1).",
    ),
    "iterations": (
        "update_bn: true bn_update_config { bn_update_iterations: 1000 }",
        "a.cfg: bn_update_config: bn_update_iterations is 1000; allowed: (0, 1000).",
    ),
    "no name": ("override_layer_configs { calibration_config { } }", "a.cfg: required field 'override_layer_configs["),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_error_names_file_and_line_or_field(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_simple_calibration(text, "a.cfg")
    assert str(raised.value).startswith(message)


def test_error_of_a_retrain_file_names_the_line() -> None:
    with pytest.raises(ConfigError, match=r"^a\.cfg, line 3: "):
        parse_simple_retrain("\n\nretrain_data_quant_config { ifmr_quantize { } }", "a.cfg")


def test_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "a.cfg"
    with pytest.raises(FileNotFoundError, match=r"Simple configuration file '.*a\.cfg' does not exist"):
        read_simple_retrain(path)
    path.write_text('om_config { mapping_file: "no.om.json" }', encoding="utf-8")
    for read in (read_simple_retrain, read_simple_calibration):
        with pytest.raises(FileNotFoundError, match=r"Mapping file of '.*': 'no\.om\.json' does not exist"):
            read(path)


def test_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.cfg"
    path.write_bytes(b"batch_num: \xff")
    with pytest.raises(ConfigError, match=r"'.*a\.cfg' is not a UTF-8 text"):
        read_simple_calibration(path)


def test_om_json_beside_the_cfg(tmp_path: Path) -> None:
    (tmp_path / "net.om.json").write_text('[{"name": "layer1.0.eltwise_add", "inputs": ["S16", "S8"]}]')
    path = tmp_path / "a.cfg"
    path.write_text('om_config { mapping_file: "net.om.json" }', encoding="utf-8")
    assert read_simple_calibration(path).om_layers == {"layer1.0.eltwise_add": (16, 8)}


def test_arguments_stand_for_a_file() -> None:
    assert simple_calibration() == SimpleCalibrationConfig()
    assert simple_calibration(["fc"], 3, False) == SimpleCalibrationConfig(
        skip_layers=("fc",), batch_num=3, activation_offset=False
    )
    assert simple_calibration(("fc", "layer1")).skip_layers == ("fc", "layer1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fc",), "create_quant_config(): skip_layers is 'fc'; a list is expected: ['fc']."),
        (([1],), "create_quant_config(): skip_layers[0] is 1; a string is expected."),
        ((None, 0), "create_quant_config(): batch_num is 0; allowed: [1, inf)."),
        ((None, 1, 1), "create_quant_config(): activation_offset is 1; allowed: true, false."),
    ],
)
def test_wrong_argument_is_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        simple_calibration(*arguments)
    assert str(raised.value) == message


@given(st.floats(1e-6, 2.0).map(lambda value: float(f"{value:.6g}")))
@settings(max_examples=100, deadline=None)
def test_float_is_the_decimal_that_was_written(value: float) -> None:
    text = f"common_config {{ ifmr_quantize {{ search_step: {value!r} }} }}"
    section = parse_simple_calibration(text, "a.cfg").common.activations
    assert section == Section(None, {"search_step": value})
