"""build_activation, build_weight, register: names, routing of arguments, messages (spec 5, 6)."""

import pytest

from hotwheels.amct_pytorch.config.arguments.argument import Argument
from hotwheels.amct_pytorch.config.arguments.quantizer_check import check_quantizer
from hotwheels.amct_pytorch.config.layers.quant_config import QuantizerConfig
from hotwheels.amct_pytorch.errors import ConfigError
from hotwheels.amct_pytorch.quantizers import UlqFakeQuantize, register
from hotwheels.amct_pytorch.quantizers import registry as quantizers


def build_activation(config, layer):
    """From a configuration on the way that a document takes: checked, then built."""
    return quantizers.build_activation(check_quantizer(config, f"Layer '{layer}'", is_weight=False), layer)


def build_weight(config, layer, channels):
    return quantizers.build_weight(check_quantizer(config, f"Layer '{layer}'", is_weight=True), layer, channels)


def test_default_configuration_of_the_manual():
    made = build_activation(
        QuantizerConfig(
            "UlqFakeQuantize",
            {"num_bits": 8, "fixed_min": False, "observer": "IFMRObserver", "batch_num": 2, "object_layer": "conv1"},
        ),
        "conv1",
    )
    assert isinstance(made, UlqFakeQuantize)
    assert (made.num_bits, made.observer.num_bits, made.observer.batch_num) == (8, 8, 2)
    assert made.layer_name == made.observer.object_layer == "conv1"


def test_arguments_go_to_whoever_knows_them(capfd):
    made = build_activation(QuantizerConfig("UlqFakeQuantize", {"num_bits": 12, "batch_nun": 3}), "conv1")
    assert made.num_bits == made.observer.num_bits == 12
    assert made.observer.batch_num == 1
    found = capfd.readouterr().err
    assert "batch_nun" in found and "'batch_num'" in found and "conv1" in found


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (QuantizerConfig("UlqFakeQuantise", {}), "conv1.*UlqFakeQuantise.*Did you mean 'UlqFakeQuantize'"),
        (QuantizerConfig("ArqWeightFakeQuantize", {}), "conv1.*ArqWeightFakeQuantize"),
        (QuantizerConfig("UlqFakeQuantize", {"observer": "IFMR"}), "conv1.*'IFMR'"),
        (QuantizerConfig("UlqFakeQuantize", {"observer": "ArqObserver"}), "conv1.*ArqObserver"),
        (QuantizerConfig("FixedFakeQuantize", {"zero_point": 0}), "conv1.*'scale'"),
        (QuantizerConfig("FixedFakeQuantize", {"scale": 1.0, "zero_point": 200}), "conv1.*zero_point"),
    ],
    ids=lambda case: getattr(case, "quantizer", None),
)
def test_what_is_wrong_is_named(config, text):
    with pytest.raises(ConfigError, match=text):
        build_activation(config, "conv1")


def test_a_name_can_be_registered_once():
    with pytest.raises(ValueError, match="'UlqFakeQuantize' is registered already"):
        register("UlqFakeQuantize")(UlqFakeQuantize)


def test_fixed_is_an_activation_and_a_weight_quantizer():
    activation = build_activation(QuantizerConfig("FixedFakeQuantize", {"scale": 0.5, "zero_point": -128.0}), "conv1")
    weight = build_weight(QuantizerConfig("FixedFakeQuantize", {"scale": [0.5, 0.25]}), "conv1", 2)
    assert activation.is_calibrated and weight.is_calibrated and weight.channel_wise


def test_both_spellings_of_the_cluster_distance():
    for key in ("min_distance", "cali_min_distance"):
        snq = build_weight(QuantizerConfig("SnqWeightFakeQuantize", {key: 1e-5, "max_iteration": 600}), "conv1", 2)
        assert (snq.observer.cali_min_distance, snq.observer.max_iteration) == (1e-5, 600)
        lnq = build_weight(QuantizerConfig("LnqFakeQuantize", {key: 1e-5, "init_algo": "gaussian"}), "conv1", 2)
        assert (lnq.min_distance, lnq.observer.init_algo) == (1e-5, "gaussian")


def test_qscheme_goes_to_the_observer_of_ulq():
    made = build_activation(QuantizerConfig("UlqFakeQuantize", {"qscheme": "symmetric"}), "conv1")
    assert made.is_symmetric


def test_search_range_of_the_dynamic_path():
    config = QuantizerConfig("UlqFakeQuantize", {"search_range": [0.8, 1.2]})
    options = build_activation(config, "conv1").observer.options
    assert (options.search_start, options.search_end) == (0.8, 1.2)


def test_a_value_on_its_way_from_a_document_to_an_observer_is_checked_once(monkeypatch):
    read = []
    original = Argument.read
    monkeypatch.setattr(
        Argument, "read", lambda one, value, where: read.append(one.name) or original(one, value, where)
    )
    given = {"num_bits": "12", "fixed_min": "false", "batch_num": 2.0, "search_range": ["0.8", 1.2]}
    made = build_activation(QuantizerConfig("UlqFakeQuantize", given), "conv1")
    assert sorted(read) == ["batch_num", "fixed_min", "num_bits", "search_end", "search_start"]
    assert (made.num_bits, made.observer.num_bits, made.fixed_min) == (12, 12, False)
    assert (made.observer.batch_num, made.observer.options.search_start) == (2, 0.8)
