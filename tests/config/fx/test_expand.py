"""From a few rules to every layer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hotwheels.amct_pytorch.config.fx.expand import expand
from hotwheels.amct_pytorch.config.fx.simple_yaml import parse_simple_yaml
from hotwheels.amct_pytorch.config.layers.quant_config import LayerConfig, QuantConfig, QuantizerConfig
from hotwheels.amct_pytorch.errors import ConfigError
from hotwheels.amct_pytorch.graph import OpGraph
from tests.support.graphs import graph, node, small_net

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def expanded():
    def of(text: str, model: OpGraph | None = None, **more: object) -> QuantConfig:
        simple = dataclasses.replace(parse_simple_yaml(text, "quant.yaml"), **more)
        return expand(model or small_net(), simple)

    return of


def enabled(config: QuantConfig) -> list[str]:
    return [name for name, layer in config.layers.items() if layer.quant_enable]


def ulq(**args: object) -> QuantizerConfig:
    return QuantizerConfig("UlqFakeQuantize", args)


def test_defaults(log_lines) -> None:
    config = expand(small_net(), None)
    assert enabled(config) == ["conv1", "maxpool", "add", "matmul", "fc"]
    assert config.layers["conv1"].weight.args == {"observer": "ArqObserver", "num_bits": 8, "channel_wise": True}
    assert config.layers["fc"].weight.args == {"observer": "ArqObserver", "num_bits": 8, "channel_wise": False}
    data = {"num_bits": 8, "fixed_min": False, "observer": "IFMRObserver", "batch_num": 1}
    assert config.layers["add"].activations == (ulq(**data, object_layer="add"),) * 2
    assert config.layers["maxpool"] == LayerConfig(True, (ulq(**data, object_layer="maxpool"),))
    matmul = config.layers["matmul"].activations[1]
    assert matmul.quantizer == "LuqActivationFakeQuantize"
    assert matmul.args["qscheme"] == "symmetric"
    assert matmul.args["with_offset"] is False
    assert not log_lines.warnings


def test_transposed_convolution_is_channel_wise() -> None:
    config = expand(graph(node("up", "conv_transpose")), None)
    assert config.layers["up"].weight.args["channel_wise"] is True


@pytest.mark.parametrize("bits", [8, 12])
def test_cube_only_switches_only_cube_layers_on(bits: int, expanded, log_lines) -> None:
    config = expanded((DATA / f"cube_only_{bits}bit.yaml").read_text(encoding="utf-8"))
    assert enabled(config) == ["conv1", "maxpool", "matmul", "fc"]
    layers = config.layers
    assert layers["conv1"].activations == (ulq(observer="IFMRObserver", num_bits=bits),)
    assert layers["fc"].activations == (ulq(observer="IFMRObserver", num_bits=bits),)  # quantizer from common_config
    assert layers["fc"].weight.args["channel_wise"] is False
    assert "channel_wise" not in layers["conv1"].weight.args  # the algorithm's default
    assert [one.args["num_bits"] for one in layers["matmul"].activations] == [bits, 8]
    assert layers["add"].activations == (ulq(), ulq())
    assert not log_lines.warnings


def test_sections_come_from_the_next_lower_level(expanded) -> None:
    text = """
common_config:
  activation_quant_params: {quantizer_args: {num_bits: 9}}
  weight_quant_params: {quantizer_args: {eps: 0.1}}
override_layer_types:
- {layer_type: torch.nn.Conv2d, activation_quant_params: {quantizer_args: {num_bits: 10}}}
override_layer_configs:
- {layer_name: conv1, weight_quant_params: {quantizer: LnqFakeQuantize}}
"""
    layers = expanded(text).layers
    assert layers["conv1"].activations == (ulq(num_bits=10),)
    assert layers["conv1"].weight == QuantizerConfig("LnqFakeQuantize", {})
    assert layers["maxpool"].activations == (ulq(num_bits=9),)
    assert layers["fc"].weight == QuantizerConfig("ArqWeightFakeQuantize", {"eps": 0.1, "channel_wise": False})


def test_layer_name_beats_type_wherever_it_stands(expanded) -> None:
    text = """
override_layer_configs: [{layer_name: [conv1], activation_quant_params: {quantizer_args: {num_bits: 12}}}]
override_layer_types: [{layer_type: [torch.nn.Conv2d], activation_quant_params: {quantizer_args: {num_bits: 16}}}]
"""
    assert expanded(text).layers["conv1"].activations == (ulq(num_bits=12),)


def test_later_entry_of_a_list_wins_per_section(expanded) -> None:
    text = """
override_layer_configs:
- {layer_name: conv1, quant_enable: false, activation_quant_params: {quantizer_args: {num_bits: 12}}}
- {layer_name: conv1, weight_quant_params: {quantizer_args: {num_bits: 8}}}
"""
    layer = expanded(text).layers["conv1"]
    assert layer.quant_enable
    assert layer.activations == (ulq(num_bits=12),)
    assert layer.weight == QuantizerConfig("ArqWeightFakeQuantize", {"num_bits": 8})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("common_config: {quant_enable: false}", []),
        ("common_config: {quant_enable: true}", ["conv1", "maxpool", "add", "matmul", "fc"]),
        ("common_config: {quant_enable: false}\noverride_layer_configs: {layer_name: [fc, add]}", ["add", "fc"]),
        (
            "override_layer_types: {layer_type: torch.nn.Softsign}",
            ["conv1", "maxpool", "add", "matmul", "softsign", "fc"],
        ),
        ("override_layer_types: {layer_type: matmul, quant_enable: no}", ["conv1", "maxpool", "add", "fc"]),
        ("skip_layers: [add, fc]\noverride_layer_configs: {layer_name: fc}", ["conv1", "maxpool", "matmul"]),
    ],
)
def test_which_layers_are_on(text: str, expected: list[str], expanded) -> None:
    assert enabled(expanded(text)) == expected


def test_type_matches_its_own_form_only(expanded) -> None:
    text = "common_config: {quant_enable: false}\noverride_layer_types: {layer_type: [operator.matmul, F.conv2d, add]}"
    assert enabled(expanded(text)) == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("Conv2d, Tensor.matmul", ["conv1", "matmul"]),
        ("nn.Conv2d, torch.nn.modules.pooling.MaxPool2d, torch.Tensor.matmul", ["conv1", "maxpool", "matmul"]),
        ("operator.iadd, nn.Softsign, Linear", ["add", "softsign", "fc"]),
    ],
)
def test_usual_spellings_of_a_type(names: str, expected: list[str], expanded, log_lines) -> None:
    text = f"common_config: {{quant_enable: false}}\noverride_layer_types: {{layer_type: [{names}]}}"
    assert enabled(expanded(text)) == expected
    assert not log_lines.warnings


def test_skipped_layer_stays_in_the_config(expanded) -> None:
    assert expanded("skip_layers: [fc]").layers["fc"].weight is not None


def test_activation_list_is_per_input(expanded) -> None:
    text = """
override_layer_configs:
- {layer_name: add, activation_quant_params: [{quantizer_args: {num_bits: 12}}, {quantizer: LuqActivationFakeQuantize}]}
"""
    expected = (ulq(num_bits=12), QuantizerConfig("LuqActivationFakeQuantize", {}))
    assert expanded(text).layers["add"].activations == expected


def test_activation_list_of_another_length_is_refused(expanded) -> None:
    text = "override_layer_types: {layer_type: operator.add, activation_quant_params: [{}]}"
    with pytest.raises(
        ConfigError, match=r"Layer 'add' in quant\.yaml: activation_quant_params has 1 entries, but .* has 2"
    ):
        expanded(text)


def test_weight_section_of_a_layer_without_weight_is_ignored(expanded, log_lines) -> None:
    text = "override_layer_configs: {layer_name: add, weight_quant_params: {quantizer: None}}"
    assert expanded(text).layers["add"].weight is None
    assert log_lines.of("DEBUG") == [
        "Layer 'add' in quant.yaml: its weight_quant_params is ignored, the layer has no weight."
    ]


def test_what_matches_nothing_is_said_and_never_raises(expanded, log_lines) -> None:
    wrong = "activation_quant_params: {quantizer: None, quantizer_args: {num_bits: 99}}"
    text = f"""
skip_layers: [con1]
override_layer_types:
- {{layer_type: [], {wrong}}}
- {{layer_type: [torch.nn.Conv3d, torch.nn.GELU], {wrong}}}
override_layer_configs:
- {{layer_name: [], {wrong}}}
- {{layer_name: [cnv1, view], {wrong}}}
"""
    assert expanded(text, om_layers={"conv9": (8,)}) == expand(small_net(), None)
    assert log_lines.warnings[:-1] == [
        "skip_layers of quant.yaml: layer 'con1' is not in the model. Did you mean 'conv1'?",
        "override_layer_configs of quant.yaml: layer 'cnv1' is not in the model. Did you mean 'conv1'?",
        "override_layer_configs of quant.yaml: layer 'view' cannot be quantized: its input is a size.",
    ]
    unknown = log_lines.warnings[-1]
    assert unknown.startswith("override_layer_types of quant.yaml: there is no operation of type 'torch.nn.Conv3d'.")
    assert "'torch.nn.Conv2d'" in unknown
    assert log_lines.of("DEBUG") == [
        "override_layer_types of quant.yaml: the model has no layer of type 'torch.nn.GELU'.",
        "The mapping file of quant.yaml: layer 'conv9' is not in the model.",
    ]


def test_out_of_range_value_of_a_matched_layer_is_refused(expanded) -> None:
    text = "override_layer_configs: {layer_name: fc, activation_quant_params: {quantizer_args: {num_bits: 99}}}"
    message = r"Layer 'fc' in quant\.yaml, activation_quant_params\[0\], UlqFakeQuantize: num_bits is 99; allowed: 4, 8"
    with pytest.raises(ConfigError, match=message):
        expanded(text)


def test_om_json_sets_widths_below_the_overrides(expanded) -> None:
    text = "override_layer_configs: {layer_name: maxpool, activation_quant_params: {quantizer_args: {num_bits: 9}}}"
    config = expanded(text, om_layers={"conv1": (16, 8, -1), "add": (-1, 16), "maxpool": (16,), "fc": (None, 8)})
    bits = {name: [one.args["num_bits"] for one in layer.activations] for name, layer in config.layers.items()}
    assert bits == {"conv1": [16], "maxpool": [9], "add": [8, 16], "matmul": [8, 8], "softsign": [8], "fc": [8]}
    assert config.layers["conv1"].activations[0].args["object_layer"] == "conv1"
    assert enabled(config) == ["conv1", "maxpool", "add", "matmul"]


MATMUL = {
    "offset": (
        "{quantizer: UlqFakeQuantize, quantizer_args: {fixed_min: true}}",
        ulq(fixed_min=False, with_offset=False),
        "input 0: inputs of a matmul have no offset; with_offset false is used.",
    ),
    "affine": (
        "{quantizer: LuqActivationFakeQuantize, quantizer_args: {qscheme: affine}}",
        QuantizerConfig("LuqActivationFakeQuantize", {"qscheme": "symmetric", "with_offset": False}),
        "input 0: inputs of a matmul have no offset; with_offset false is used.",
    ),
}


@pytest.mark.parametrize(("section", "expected", "message"), MATMUL.values(), ids=MATMUL)
def test_matmul_is_made_symmetric(section: str, expected: QuantizerConfig, message: str, expanded, log_lines) -> None:
    config = expanded(f"override_layer_types: {{layer_type: matmul, activation_quant_params: {section}}}")
    assert config.layers["matmul"].activations == (expected, expected)
    assert log_lines.warnings[0] == f"Layer 'matmul' in quant.yaml, {message}"
    assert len(log_lines.warnings) == 2


@pytest.mark.parametrize(
    "section",
    [
        "{quantizer: UlqFakeQuantize, quantizer_args: {with_offset: false}}",
        "{quantizer: UlqFakeQuantize, quantizer_args: {qscheme: symmetric}}",
        "{quantizer: LuqActivationFakeQuantize}",
        "{quantizer: FixedFakeQuantize, quantizer_args: {scale: 0.1, zero_point: 0.0}}",
        "{quantizer: torch.quantization.FakeQuantize, quantizer_args: {num_bits: 16}}",
    ],
)
def test_symmetric_matmul_is_left_alone(section: str, expanded, log_lines) -> None:
    expanded(f"override_layer_types: {{layer_type: matmul, activation_quant_params: {section}}}")
    assert not log_lines.warnings


def test_second_matmul_input_has_8_bits(expanded, log_lines) -> None:
    section = "{quantizer: LuqActivationFakeQuantize, quantizer_args: {num_bits: 12}}"
    config = expanded(f"override_layer_types: {{layer_type: matmul, activation_quant_params: {section}}}")
    assert [one.args["num_bits"] for one in config.layers["matmul"].activations] == [12, 8]
    assert log_lines.warnings == [
        "Layer 'matmul' in quant.yaml: num_bits of the second matmul input is 12; only 8 is possible and used."
    ]


def test_linear_has_no_channels(expanded, log_lines) -> None:
    config = expanded("common_config: {weight_quant_params: {quantizer_args: {channel_wise: true}}}")
    assert config.layers["conv1"].weight.args == {"channel_wise": True}
    assert config.layers["fc"].weight.args == {"channel_wise": False}
    assert log_lines.warnings == [
        "Layer 'fc' in quant.yaml: channel_wise is true, but a Linear has no channels; false is used."
    ]


@pytest.mark.parametrize(
    ("data_bits", "weight", "needed", "found"),
    [(12, "LnqFakeQuantize", 8, 4), (4, "ArqWeightFakeQuantize", 4, 8)],
)
def test_widths_that_do_not_pair_are_a_warning(
    data_bits: int, weight: str, needed: int, found: int, expanded, log_lines
) -> None:
    sections = f"activation_quant_params: {{quantizer_args: {{num_bits: {data_bits}}}}}"
    text = f"override_layer_configs: {{layer_name: conv1, {sections}, weight_quant_params: {{quantizer: {weight}}}}}"
    layer = expanded(text).layers["conv1"]
    assert layer.activations == (ulq(num_bits=data_bits),)
    assert log_lines.warnings == [
        f"Layer 'conv1' in quant.yaml: activations of {data_bits} bits need weights of {needed} bits, found {found}; "
        "the hardware may not compute it."
    ]


@pytest.mark.parametrize(("configured", "told", "expected"), [(12, 16, 12), ("9", 16, "9"), (8, 16, 16), (12, 8, 8)])
def test_s16_keeps_the_widths_that_the_converter_calls_so(configured, told: int, expected, expanded) -> None:
    text = f"common_config: {{activation_quant_params: {{quantizer_args: {{num_bits: {configured!r}}}}}}}"
    layer = expanded(text, om_layers={"conv1": (told,)}).layers["conv1"]
    assert layer.activations[0].args["num_bits"] == int(expected)
