"""config.json of training on the dynamic path: the samples of HiSilicon's AMCT manual, round trips, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.config.dynamic.expand_dynamic import expand_retrain
from hotwheels.amct_pytorch.config.dynamic.retrain_config import (
    RetrainConfig,
    read_retrain_config,
    to_quant_config,
    write_retrain_config,
)
from hotwheels.amct_pytorch.config.dynamic.simple_cfg import parse_simple_retrain
from hotwheels.amct_pytorch.config.layers.layer_rules import apply_rules
from hotwheels.amct_pytorch.config.layers.quant_config import LayerConfig, QuantizerConfig
from hotwheels.amct_pytorch.errors import ConfigError
from hotwheels.amct_pytorch.graph import Form, OpNode
from hotwheels.amct_pytorch.quantizers.registry import build_activation, build_weight
from tests.support.module_graphs import graph, matmul, module, residual_net

DATA = Path(__file__).parents[1] / "data"
LUQ = QuantizerConfig("LuqActivationFakeQuantize", {"num_bits": 8})
LNQ = {"clip_max": 3.0, "cluster_freq": 1200, "max_iteration": 1000, "min_distance": 1e-4, "channel_wise": False}


def arq(channel_wise: bool) -> QuantizerConfig:
    return QuantizerConfig("ArqWeightFakeQuantize", {"num_bits": 8, "channel_wise": channel_wise})


def written(folder: Path, document: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def expanded(text: str) -> RetrainConfig:
    return expand_retrain(residual_net(), parse_simple_retrain(text, "a.cfg"))


def test_sample_of_the_manual_is_read_and_written_as_it_stands(tmp_path: Path, log_lines) -> None:
    sample = DATA / "manual_retrain_config.json"
    config = read_retrain_config(sample, residual_net())
    assert config == RetrainConfig(
        layers={
            "conv1": LayerConfig(True, (LUQ,), arq(True)),
            "layer1.0.conv1": LayerConfig(True, (LUQ,), QuantizerConfig("LnqFakeQuantize", {"num_bits": 4, **LNQ})),
            "layer1.0.eltwise_add": LayerConfig(True, (LUQ, LUQ), None),
            "fc": LayerConfig(True, (LUQ,), arq(False)),
        }
    )
    write_retrain_config(config, tmp_path / "new" / "c.json")
    # Same keys in the same order: compared as text, without white space.
    ours, manual = ((path.read_text()) for path in (tmp_path / "new" / "c.json", sample))
    assert "".join(ours.split()) == "".join(manual.split())
    assert not log_lines.warnings


def test_cfg_sample_of_the_manual(log_lines) -> None:
    config = expanded((DATA / "manual_retrain.cfg").read_text(encoding="utf-8"))
    assert config.layers["conv1"] == LayerConfig(True, (LUQ,), arq(True))
    assert config.layers["fc"] == LayerConfig(True, (LUQ,), QuantizerConfig("LnqFakeQuantize", {"num_bits": 4, **LNQ}))
    # A type stands where a layer's name is expected (spec 9.5).
    assert log_lines.warnings[0].startswith("override_layer_configs of a.cfg: layer 'Conv' is not in the model. ")
    assert len(log_lines.warnings) == 1


def test_default_layers(log_lines) -> None:
    config = expand_retrain(residual_net(), None)
    assert config.layers["layer1.0.conv1"] == LayerConfig(True, (LUQ,), arq(True))
    assert config.layers["fc"] == LayerConfig(True, (LUQ,), arq(False))
    assert config.layers["layer1.0.eltwise_add"] == LayerConfig(True, (LUQ, LUQ), None)
    assert not config.layers["softsign"].quant_enable
    assert not log_lines.warnings


def test_luq_is_dynamic_and_has_no_batch_count() -> None:
    config = expanded("batch_num: 3")
    assert config.batch_num == 3
    layer = to_quant_config(config, residual_net()).layers["conv1"]
    assert layer.activations == (QuantizerConfig("LuqActivationFakeQuantize", {"num_bits": 8, "qscheme": "dynamic"}),)
    assert layer.weight == arq(True)


ULQ = "retrain_data_quant_config { ulq_retrain { num_bits: 10 } }"


def test_lower_end_is_fixed_directly_behind_relu_only() -> None:
    layers = expanded(ULQ).layers
    behind = {name: [one.args["fixed_min"] for one in layer.activations] for name, layer in layers.items()}
    assert behind["maxpool"] == [True]  # ReLU
    assert behind["layer1.0.conv2"] == [True]  # ReLU6
    assert behind["layer1.0.eltwise_add"] == [False, False]  # a convolution, and a pooling behind a ReLU
    assert behind["conv1"] == [False]


def test_relu_that_is_no_module_is_known_by_its_onnx_type() -> None:
    model = graph(
        OpNode(name="Relu_3", form=Form.FUNCTION, inputs=("x",), onnx_type="Relu"), module("fc", "Linear", "Relu_3")
    )
    config = expand_retrain(model, parse_simple_retrain(ULQ, "a.cfg"))
    assert config.layers["fc"].activations[0].args["fixed_min"]


def test_lower_end_is_as_the_user_says() -> None:
    text = "retrain_data_quant_config { ulq_retrain { fixed_min: false } }"
    assert expanded(text).layers["maxpool"].activations[0].args == {"num_bits": 8, "fixed_min": False}


def test_ulq_is_seeded_by_ifmr_over_the_batches() -> None:
    text = "batch_num: 2 retrain_data_quant_config { ulq_quantize { clip_max_min { clip_max: 3 clip_min: -3 } } }"
    config = expanded(text)
    own = {"num_bits": 8, "fixed_min": False, "clip_max": 3.0, "clip_min": -3.0}
    assert config.layers["conv1"].activations == (QuantizerConfig("UlqFakeQuantize", own),)
    assert to_quant_config(config, residual_net()).layers["conv1"].activations[0].args == {
        **own,
        "observer": "IFMRObserver",
        "batch_num": 2,
    }


def test_fixed_data_has_offset_0_unless_it_is_given(tmp_path: Path) -> None:
    text = "retrain_data_quant_config { fixed_quant_param_retrain { scale: 0.1 } }"
    config = expanded(text)
    assert config.layers["fc"].activations[0].args == {"num_bits": 8, "zero_point": 0, "scale": 0.1}
    write_retrain_config(config, tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text())["fc"]["retrain_data_config"] == [
        {"algo": "fixed_quant_param_retrain", "num_bits": 8, "offset": 0, "scale": 0.1}
    ]
    for field in ("offset: -128", "zero_point: -128"):
        text = f"retrain_data_quant_config {{ fixed_quant_param_retrain {{ scale: 0.1 {field} }} }}"
        entry = expanded(text).layers["fc"].activations[0]
        assert entry.args["zero_point"] == -128
        assert "offset" not in entry.args


def test_fixed_data_needs_a_scale() -> None:
    with pytest.raises(ConfigError, match=r"'conv1' in a\.cfg, retrain_data_config\[0\].*needs the argument 'scale'"):
        expanded("retrain_data_quant_config { fixed_quant_param_retrain { } }")


def test_matmul_has_no_offset_with_any_algorithm(log_lines) -> None:
    model = graph(module("relu", "ReLU", "x"), matmul("matmul", "relu", "relu"))
    for text, added in (("", {"qscheme": "symmetric"}), (ULQ, {"with_offset": False, "fixed_min": False})):
        config = expand_retrain(model, parse_simple_retrain(text, "a.cfg"))
        for one in to_quant_config(config, model).layers["matmul"].activations:
            assert added.items() <= one.args.items()
    assert [line for line in log_lines.warnings if "no offset" in line] == []


def test_channels_of_lnq_have_no_effect(log_lines) -> None:
    text = "retrain_weight_quant_config { lnq_retrain { channel_wise: true } }"
    assert expanded(text).layers["conv1"].weight.args["channel_wise"] is False
    assert "channel_wise is True; allowed: False. False is used." in log_lines.warnings[0]
    assert expanded(text).layers["conv1"].weight.args["cluster_freq"] == 400


def test_every_quantizer_can_be_built() -> None:
    for text in ("", ULQ, "retrain_weight_quant_config { lnq_retrain { } }"):
        for name, layer in to_quant_config(expanded(text), residual_net()).layers.items():
            for one in layer.activations if layer.quant_enable else ():
                build_activation(one, name)
            if layer.weight is not None:
                build_weight(layer.weight, name, 4, name != "fc")


PRIORITIES = {
    "default": ("", 8, True),
    "common": ("retrain_data_quant_config { luq_retrain { num_bits: 9 } }", 9, True),
    "type": (
        f'{ULQ} override_layer_types {{ layer_type: "Conv" retrain_data_quant_config {{ luq_quantize {{ }} }} }}',
        8,
        True,
    ),
    "section from the lower level": (
        f'{ULQ} override_layer_types {{ layer_type: "Conv" retrain_weight_quant_config {{ arq_retrain {{ }} }} }}',
        10,
        True,
    ),
    "name": (
        'override_layer_configs { layer_name: "conv1" retrain_data_quant_config { luq_quantize { num_bits: 12 } } } '
        'override_layer_types { layer_type: "Conv" retrain_data_quant_config { luq_quantize { num_bits: 11 } } }',
        12,
        True,
    ),
    "skip": ('skip_layers: "conv1" override_layer_configs { layer_name: "conv1" }', 8, False),
    "skip type": ('skip_layer_types: "Conv" override_layer_configs { layer_name: "conv1" }', 8, False),
}


@pytest.mark.parametrize(("text", "bits", "is_enabled"), PRIORITIES.values(), ids=PRIORITIES)
def test_priorities(text: str, bits: int, is_enabled: bool) -> None:
    layer = expanded(text).layers["conv1"]
    assert (layer.activations[0].args["num_bits"], layer.quant_enable) == (bits, is_enabled)


@pytest.mark.parametrize("switch", ["retrain_enable", "quant_enable"])
def test_both_names_of_the_switch(switch: str, tmp_path: Path) -> None:
    path = written(tmp_path, {"fc": {switch: False}})
    config = read_retrain_config(path, residual_net())
    assert config.layers["fc"] == LayerConfig(False, (LUQ,), arq(False))
    write_retrain_config(config, path)
    assert json.loads(path.read_text())["fc"]["retrain_enable"] is False


ALIASES = {
    "luq_retrain": ("luq_quantize", {}),
    "ulq_retrain": ("ulq_quantize", {}),
    "fixed_quantize": ("fixed_quant_param_retrain", {"scale": 0.5}),
}


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_of_algorithms_mean_the_same(alias: str, tmp_path: Path) -> None:
    name, args = ALIASES[alias]
    read = [
        read_retrain_config(written(tmp_path, {"fc": {"retrain_data_config": {"algo": one, **args}}}), residual_net())
        for one in (name, alias)
    ]
    assert read[0] == read[1]


WRONG = {
    "unknown layer": ({"conv9": {}}, "Layer 'conv9' in {path} is not in the model. Did you mean 'conv1'"),
    "too few": (
        {"layer1.0.eltwise_add": {"retrain_data_config": [{}]}},
        "Layer 'layer1.0.eltwise_add' in {path}: retrain_data_config has 1 entries, but the layer has 2 quantizable",
    ),
    "algorithm": (
        {"fc": {"retrain_data_config": [{"algo": "arq_retrain"}]}},
        "Layer 'fc' in {path}, retrain_data_config[0]: algo is 'arq_retrain'; allowed: luq_quantize, ulq_quantize, ",
    ),
    "width": (
        {"fc": {"retrain_data_config": [{"num_bits": 5}]}},
        "Layer 'fc' in {path}, retrain_data_config[0], LuqActivationFakeQuantize: num_bits is 5; allowed: 4, 8",
    ),
    "clip": (
        {"fc": {"retrain_data_config": [{"algo": "ulq_quantize", "clip_min": 1}]}},
        "Layer 'fc' in {path}, retrain_data_config[0], UlqFakeQuantize: clip_min is 1.0; allowed: (-inf, 0).",
    ),
    "frequency": (
        {"fc": {"retrain_weight_config": {"algo": "lnq_retrain", "cluster_freq": 0}}},
        "Layer 'fc' in {path}, retrain_weight_config, LnqFakeQuantize: cluster_freq is 0; allowed: [1, inf).",
    ),
}


@pytest.mark.parametrize(("document", "message"), WRONG.values(), ids=WRONG)
def test_error_names_file_layer_key_and_value(document: object, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, document)
    with pytest.raises(ConfigError) as raised:
        read_retrain_config(path, residual_net())
    assert str(raised.value).startswith(message.format(path=path))


bits = st.sampled_from((4, 8, 12, 16))
data_entries = st.one_of(
    st.fixed_dictionaries({}, optional={"algo": st.sampled_from(("luq_quantize", "luq_retrain")), "num_bits": bits}),
    st.fixed_dictionaries(
        {"algo": st.just("ulq_retrain")},
        optional={"num_bits": bits, "fixed_min": st.booleans(), "clip_max": st.just(2), "clip_min": st.just(-0.5)},
    ),
    st.fixed_dictionaries({"algo": st.just("fixed_quantize"), "scale": st.just(0.1)}, optional={"offset": st.just(0)}),
)
weight_entries = st.one_of(
    st.fixed_dictionaries({}, optional={"num_bits": st.sampled_from((4, 8, 6)), "channel_wise": st.booleans()}),
    st.fixed_dictionaries(
        {"algo": st.sampled_from(("lnq_retrain", "lnq_quantize"))},
        optional={"cluster_freq": st.integers(1, 5000), "channel_wise": st.booleans(), "clip_max": st.just(2.5)},
    ),
)
layer_entries = st.fixed_dictionaries(
    {},
    optional={
        "retrain_enable": st.booleans(),
        "retrain_data_config": data_entries,
        "retrain_weight_config": weight_entries,
    },
)
NET = graph(
    module("conv", "Conv2d", "x"),
    module("relu", "ReLU", "conv"),
    module("a.fc", "Linear", "relu"),
    matmul("a.matmul", "a.fc", "relu"),
)
documents = st.fixed_dictionaries(
    {},
    optional={"batch_num": st.integers(1, 9), **dict.fromkeys(("conv", "a.fc", "a.matmul", "relu"), layer_entries)},
)


@given(documents)
@settings(max_examples=150, deadline=None)
def test_any_document_is_settled_when_read(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    folder = tmp_path_factory.mktemp("config")
    config = read_retrain_config(written(folder, document), NET)
    write_retrain_config(config, folder / "again.json")
    assert read_retrain_config(folder / "again.json", NET) == config
    for name, layer in to_quant_config(config, NET).layers.items():
        assert apply_rules(NET[name], layer, name) == layer
