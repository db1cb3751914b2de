"""The simple yaml: the samples of HiSilicon's AMCT manual as a user would indent them, and users' other spellings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.config.arguments.section import Section
from hotwheels.amct_pytorch.config.fx.simple_config import SimpleConfig
from hotwheels.amct_pytorch.config.fx.simple_yaml import parse_simple_yaml, read_simple_yaml
from hotwheels.amct_pytorch.config.layers.rule import Rule
from hotwheels.amct_pytorch.errors import ConfigError

DATA = Path(__file__).parents[1] / "data"
CUBE = (DATA / "cube_only_8bit.yaml").read_text(encoding="utf-8")

POOLINGS = (
    "torch.nn.MaxPool2d",
    "torch.nn.AdaptiveMaxPool2d",
    "torch.nn.functional.max_pool2d",
    "torch.nn.functional.max_pool2d_with_indices",
    "torch.nn.functional.adaptive_max_pool2d",
    "torch.nn.functional.adaptive_max_pool2d_with_indices",
    "torch.nn.functional.adaptive_avg_pool2d",
    "torch.nn.AdaptiveAvgPool2d",
    "torch.nn.AvgPool2d",
    "torch.nn.functional.avg_pool2d",
)
ARQ = Section("ArqWeightFakeQuantize", {"observer": "ArqObserver", "num_bits": 8})


def ulq(num_bits: int) -> Section:
    return Section("UlqFakeQuantize", {"observer": "IFMRObserver", "num_bits": num_bits})


def luq(num_bits: int) -> Section:
    args = {
        "observer": "IFMRObserver",
        "num_bits": num_bits,
        "batch_num": 1,
        "qscheme": "symmetric",
        "with_offset": False,
    }
    return Section("LuqActivationFakeQuantize", args)


@pytest.mark.parametrize(("bits", "named_bits"), [(8, 16), (12, 12)])
def test_cube_only_files_of_the_manual(bits: int, named_bits: int, log_lines) -> None:
    assert read_simple_yaml(DATA / f"cube_only_{bits}bit.yaml") == SimpleConfig(
        common=Rule(
            quant_enable=False, weight=Section("ArqWeightFakeQuantize"), activations=Section("UlqFakeQuantize")
        ),
        types=(
            Rule(names=("torch.nn.Conv2d", "torch.nn.ConvTranspose2d"), weight=ARQ, activations=ulq(bits)),
            Rule(names=("torch.nn.Linear",), weight=ARQ, activations=Section(None, ulq(bits).args)),
            Rule(names=("torch.matmul", "operator.matmul", "matmul"), activations=(luq(bits), luq(8))),
            Rule(names=POOLINGS, activations=ulq(bits)),
        ),
        layers=(
            Rule(
                weight=Section("ArqWeightFakeQuantize", {**ARQ.args, "channel_wise": True, "eps": 1.19209290e-07}),
                activations=ulq(named_bits),
            ),
        ),
    )
    assert not log_lines.warnings


def test_flow_style_sample_of_the_manual(log_lines) -> None:
    text = (DATA / "manual_simple.yaml").read_text(encoding="utf-8")
    simple = parse_simple_yaml(text, "quant.yaml")
    assert simple.mapping_file == "./om_json/resnet50.om.json"
    assert simple.skip_layers == ()
    assert simple.common == Rule(weight=ARQ, activations=ulq(8))
    assert simple.layers[0].weight == Section("ArqWeightFakeQuantize", {**ARQ.args, "channel_wise": False})
    assert simple.layers[1].names == ("conv1",)
    assert simple.layers[1].weight.args["ch_axis"] == 0
    assert simple.types[0].activations == Section(
        "LuqActivationFakeQuantize", {"num_bits": 8, "observer": "LuqMseObserver"}
    )
    assert not log_lines.warnings


def test_flow_style_sample_needs_its_mapping_file() -> None:
    with pytest.raises(FileNotFoundError, match=r"Mapping file of '.*': '.*resnet50\.om\.json' does not exist\."):
        read_simple_yaml(DATA / "manual_simple.yaml")


def test_dumped_sample_of_the_manual() -> None:
    simple = read_simple_yaml(DATA / "manual_dumped.yaml")
    assert simple.layers == (
        Rule(
            names=("fc",),
            weight=Section("ArqWeightFakeQuantize", {**ARQ.args, "channel_wise": False}),
            activations=ulq(12),
        ),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "skip_layers:\noverride_layer_types:\ncommon_config:\nom_config:\n",
        "skip_layers: []",
        "om_config: {mapping_file: }",
    ],
)
def test_file_that_says_nothing(text: str, log_lines) -> None:
    assert parse_simple_yaml(text, "quant.yaml") == SimpleConfig()
    assert not log_lines.warnings


def test_single_values_stand_for_lists() -> None:
    simple = parse_simple_yaml("override_layer_configs: {layer_name: fc}", "quant.yaml")
    assert simple.layers == (Rule(names=("fc",)),)


def test_mapping_file_beside_the_yaml_is_found(tmp_path: Path) -> None:
    (tmp_path / "net.om.json").write_text('{"name": "conv1", "inputs": ["S16"]}')
    (tmp_path / "quant.yaml").write_text("om_config: {mapping_file: net.om.json}")
    assert read_simple_yaml(tmp_path / "quant.yaml").om_layers == {"conv1": (16,)}


def test_unknown_and_repeated_keys_are_warnings(log_lines) -> None:
    text = "skip_layer: [a]\ncommon_config:\n  quant_enabled: false\noverride_layer_types:\n- {quant_enable: no}\n"
    parse_simple_yaml(text + "skip_layers: []\nskip_layers: [b]\n", "quant.yaml")
    assert log_lines.warnings == [
        "quant.yaml, line 7: key 'skip_layers' occurs twice; the last value is used.",
        "quant.yaml: unknown key 'skip_layer' is ignored. Did you mean 'skip_layers'?",
        "quant.yaml: common_config: unknown key 'quant_enabled' is ignored. Did you mean 'quant_enable'?",
        "quant.yaml: override_layer_types[0] has no layer_type, so it is for no layer.",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2", "quant.yaml, line 2, column 2: expected ',' or ']', but got ':'."),
        ("- 1", "The document in quant.yaml is [1]; an object with keys is expected."),
        ("skip_layers: {a: 1}", "quant.yaml: skip_layers[0] is {'a': 1}; a string is expected."),
        ("skip_layers: conv1", "quant.yaml: skip_layers is 'conv1'; a list is expected: ['conv1']."),
        ("common_config: 3", "quant.yaml: common_config is 3; an object with keys is expected."),
        ("common_config: {quant_enable: 2}", "quant.yaml: common_config.quant_enable is 2; allowed: true, false."),
        (
            "override_layer_types: [{layer_type: a, weight_quant_params: {quantizer: 3}}]",
            "quant.yaml: override_layer_types[0].weight_quant_params: quantizer is 3; a string is expected.",
        ),
        ("x: !!python/object:os.system {}", "quant.yaml, line 1, column 4: could not determine a constructor"),
        ("x: 2001-99-99", "quant.yaml is not a yaml document: month must be in 1..12"),
        ("a: 1\n---\nb: 2", "quant.yaml, line 2, column 1: expected a single document in the stream but found another"),
    ],
)
def test_error_names_place_and_value(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_simple_yaml(text, "quant.yaml")
    assert str(raised.value).startswith(message)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_damaged_yaml_is_read_or_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(CUBE)))
    end = data.draw(st.integers(start, min(len(CUBE), start + 30)))
    inserted = data.draw(st.text(max_size=3) | st.sampled_from(("{", "]", "&a", "*a", "!!", "? ", "- ", "<<: ", "\t")))
    try:
        parse_simple_yaml(CUBE[:start] + inserted + CUBE[end:], "quant.yaml")
    except ConfigError as error:
        assert "quant.yaml" in str(error)
