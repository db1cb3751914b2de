"""The refine section: its values in yaml and JSON, and errors with their places."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotwheels.amct_pytorch.config.dynamic.calibration_config import read_calibration_config, write_calibration_config
from hotwheels.amct_pytorch.config.dynamic.expand_dynamic import expand_calibration
from hotwheels.amct_pytorch.config.dynamic.simple_cfg import parse_simple_calibration
from hotwheels.amct_pytorch.config.files.tolerant_json import read_json
from hotwheels.amct_pytorch.config.fx.expand import expand
from hotwheels.amct_pytorch.config.fx.json_config import read_config, write_config
from hotwheels.amct_pytorch.config.fx.simple_yaml import parse_simple_yaml
from hotwheels.amct_pytorch.config.layers.refine_config import (
    DEFAULT_METHODS,
    RefineConfig,
    read_refine,
    refine_document,
)
from hotwheels.amct_pytorch.errors import ConfigError
from tests.support.graphs import graph, node, small_net

DEFAULT = dict.fromkeys(DEFAULT_METHODS)
SECTIONS = {
    "refine: true": RefineConfig(methods=DEFAULT),
    "refine: {}": RefineConfig(methods=DEFAULT),
    "refine: {methods: bias_correction}": RefineConfig(methods={"bias_correction": None}),
    "refine: {methods: [bias_correction], seed: 3}": RefineConfig(methods={"bias_correction": None}, seed=3),
    "refine: {methods: {compensated_rounding: [Conv2d, fc], bias_correction: }, pictures: 8}": RefineConfig(
        methods={"compensated_rounding": ("Conv2d", "fc"), "bias_correction": None}, pictures=8
    ),
    "refine: [bias_correction]": RefineConfig(methods={"bias_correction": None}),
    "refine: bias_correction": RefineConfig(methods={"bias_correction": None}),
    "refine: 'yes'": RefineConfig(methods=DEFAULT),
    "refine: false": None,
    "refine:": None,
    "": None,
}


@pytest.mark.parametrize(("text", "wanted"), SECTIONS.items())
def test_section_means_the_same_in_yaml_and_in_json(text: str, wanted: RefineConfig | None, tmp_path: Path) -> None:
    simple = parse_simple_yaml(text, "a.yaml")
    assert simple.refine == wanted
    write_config(expand(small_net(), simple), tmp_path / "config.json")
    assert read_config(tmp_path / "config.json", small_net()).refine == wanted


CFG_SECTIONS = {
    "refine {}": RefineConfig(methods=DEFAULT),
    "refine { methods { name: 'bias_correction' } seed: 3 }": RefineConfig(methods={"bias_correction": None}, seed=3),
    "refine { methods { name: 'compensated_rounding' layers: ['Conv2d', 'fc'] } pictures: 8 }": RefineConfig(
        methods={"compensated_rounding": ("Conv2d", "fc")}, pictures=8
    ),
    "batch_num: 2": None,
}


@pytest.mark.parametrize(("text", "wanted"), CFG_SECTIONS.items())
def test_section_of_a_cfg_means_the_same_in_its_json(text: str, wanted: RefineConfig | None, tmp_path: Path) -> None:
    simple = parse_simple_calibration(text, "a.cfg")
    assert simple.refine == wanted
    write_calibration_config(expand_calibration(small_net(), simple), tmp_path / "config.json")
    assert ("refine" in read_json(tmp_path / "config.json")) == (wanted is not None)
    assert read_calibration_config(tmp_path / "config.json", small_net()).refine == wanted


def test_wrong_section_of_a_cfg() -> None:
    with pytest.raises(ConfigError, match=r"a.cfg: refine.methods: unknown method 'gptq'"):
        parse_simple_calibration("refine { methods { name: 'gptq' } }", "a.cfg")


@pytest.mark.parametrize("config", [one for one in SECTIONS.values() if one is not None])
def test_document_is_read_back(config: RefineConfig) -> None:
    assert read_refine(refine_document(config), "here") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "refine: {methods: [bias_corection]}",
            "a.yaml: refine.methods: unknown method 'bias_corection'.*bias",
        ),
        ("refine: {methods: {bias_correction: 3}}", r"refine.methods.bias_correction\[0\] is 3; a string is expected"),
        ("refine: {pictures: 0}", "refine.pictures is 0; allowed: 1 and more"),
        ("refine: {seed: x}", "refine.seed is 'x'; a whole number is expected"),
        ("refine: [1]", r"refine\[0\] is 1"),
        ("refine: [gptq]", "refine: unknown method 'gptq'"),
        (
            "refine: 1",
            "refine is 1; allowed: true, false, a method, a list of methods, or an object with the keys methods, seed,"
            " pictures",
        ),
        ("refine: maybe", "refine is 'maybe'; allowed: true, false, a method"),
    ],
)
def test_wrong_section(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_simple_yaml(text, "a.yaml")


def test_unknown_key_is_named(log_lines) -> None:
    parse_simple_yaml("refine: {method: bias_correction}", "a.yaml")
    assert [one for one in log_lines.warnings if "unknown key 'method'" in one and "'methods'" in one]


def test_layer_called_refine(tmp_path: Path) -> None:
    model = graph(node("refine", "conv"), node("fc", "linear"))
    write_config(expand(model, None), tmp_path / "config.json")
    assert "refine" in read_config(tmp_path / "config.json", model).layers
    with pytest.raises(ConfigError, match="a layer called 'refine'"):
        write_config(expand(model, parse_simple_yaml("refine: true", "a.yaml")), tmp_path / "config.json")
