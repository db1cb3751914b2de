"""One quantizer's arguments: coercions, ranges, corrections."""

from __future__ import annotations

import pytest

from hotwheels.amct_pytorch.config.arguments.algorithms import (
    CLASS_OF_ALGORITHM,
    OBSERVERS,
    QUANTIZERS,
    arguments_of,
)
from hotwheels.amct_pytorch.config.arguments.quantizer_check import check_quantizer, check_values
from hotwheels.amct_pytorch.config.layers.quant_config import QuantizerConfig
from hotwheels.amct_pytorch.errors import ConfigError

WEIGHTS = {"ArqWeightFakeQuantize", "LnqFakeQuantize", "LuqWeightFakeQuantize", "SnqWeightFakeQuantize"}
EVERY = [(name, tensor == "weight") for name, one in (QUANTIZERS | OBSERVERS).items() for tensor in one.tensors]


def check(quantizer: str, is_weight: bool | None = None, **args: object) -> dict[str, object]:
    is_weight = quantizer in WEIGHTS if is_weight is None else is_weight
    return dict(check_quantizer(QuantizerConfig(quantizer, args), "Layer 'a' in c.json", is_weight).args)


@pytest.mark.parametrize(("name", "is_weight"), EVERY)
def test_every_default_is_inside_its_own_range(name: str, is_weight: bool, log_lines) -> None:
    for argument in arguments_of(name, is_weight).values():
        if argument.default is not None:
            assert argument.read(argument.default, name) == argument.default
    assert not log_lines.warnings


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"num_bits": 8.0, "batch_num": "2"}, {"num_bits": 8, "batch_num": 2}),
        ({"num_bits": "8.0"}, {"num_bits": 8}),
        ({"fixed_min": "yes", "with_offset": "False"}, {"fixed_min": True, "with_offset": False}),
        ({"search_step": "1e-2"}, {"search_step": 0.01}),
        ({"search_range": [0.8, 1.2]}, {"search_start": 0.8, "search_end": 1.2}),
        ({"batch_num": None}, {}),
        ({"clip_max": 3, "clip_min": -3}, {"clip_max": 3.0, "clip_min": -3.0}),
    ],
)
def test_values_are_coerced(args: dict[str, object], expected: dict[str, object], log_lines) -> None:
    found = check("UlqFakeQuantize", **args)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]
    assert not log_lines.warnings


RAISES = {
    "bits": ("UlqFakeQuantize", {"num_bits": 7}, "num_bits is 7; allowed: 4, 8, 9, 10, 11, 12, 13, 14, 15, 16."),
    "bits 17": ("LuqActivationFakeQuantize", {"num_bits": 17}, "num_bits is 17; allowed: 4, 8"),
    "fraction": ("UlqFakeQuantize", {"num_bits": 8.5}, "num_bits is 8.5; a whole number is expected."),
    "bool as int": ("UlqFakeQuantize", {"num_bits": True}, "num_bits is True; a whole number is expected."),
    "int as bool": ("UlqFakeQuantize", {"fixed_min": 1}, "fixed_min is 1; allowed: true, false."),
    "batch_num": ("UlqFakeQuantize", {"batch_num": 0}, "batch_num is 0; allowed: [1, inf)."),
    "percentile": ("UlqFakeQuantize", {"max_percentile": 0.5}, "max_percentile is 0.5; allowed: (0.5, 1.0]."),
    "nan": ("UlqFakeQuantize", {"max_percentile": "nan"}, "max_percentile is 'nan'; a number is expected."),
    "search": (
        "UlqFakeQuantize",
        {"search_start": 1.4},
        "search_start is 1.4 and search_end is 1.3; the start must be",
    ),
    "step": (
        "UlqFakeQuantize",
        {"search_step": 0.61},
        "search_step is 0.61; allowed: (0, 0.6], the width of the search.",
    ),
    "a tiny step": (
        "UlqFakeQuantize",
        {"search_step": 1e-9},
        "search_step is 1e-09, which makes 600,000,000 candidates from search_start to search_end; at most 10,000",
    ),
    "range": ("UlqFakeQuantize", {"search_range": [1]}, "search_range is [1]; a list of two numbers is expected."),
    "clip": ("UlqFakeQuantize", {"clip_min": 1}, "clip_min is 1.0; allowed: (-inf, 0)."),
    "qscheme": ("UlqFakeQuantize", {"qscheme": "dynamic"}, "qscheme is 'dynamic'; allowed: symmetric, affine."),
    "luq search": (
        "LuqActivationFakeQuantize",
        {"search_start": 0.4},
        "search_start is 0.4; allowed: [0.5, 1.5].",
    ),
    "iterations": ("LnqFakeQuantize", {"max_iteration": 499}, "max_iteration is 499; allowed: [500, 2000]."),
    "distance": ("LnqFakeQuantize", {"cali_min_distance": 0.1}, "min_distance is 0.1; allowed: [1e-08, 0.01]."),
    "init": ("LnqFakeQuantize", {"init_algo": "k"}, "init_algo is 'k'; allowed: uniform, gaussian, d2sampling."),
    "missing": ("FixedFakeQuantize", {"scale": 0.1}, "FixedFakeQuantize needs the argument 'zero_point'."),
    "scale": ("FixedFakeQuantize", {"scale": 0, "zero_point": 0}, "scale is 0.0; allowed: (0, inf)."),
    "zero point": (
        "FixedFakeQuantize",
        {"scale": 1, "zero_point": 128},
        "zero_point is 128; with 8 bits allowed: -128",
    ),
    "broken zero point": ("FixedFakeQuantize", {"scale": 1, "zero_point": 0.5}, "zero_point is 0.5; a whole number"),
    "observer": (
        "UlqFakeQuantize",
        {"observer": "IFMRObserve"},
        "there is no observer 'IFMRObserve' for activations. Did you mean 'IFMRObserver',",
    ),
    "weight observer": (
        "UlqFakeQuantize",
        {"observer": "SnqObserver"},
        "there is no observer 'SnqObserver' for activations.",
    ),
    "quantizer": ("UlqFakeQuantise", {}, "there is no quantizer 'UlqFakeQuantise'. Did you mean 'UlqFakeQuantize'"),
}


@pytest.mark.parametrize(("quantizer", "args", "message"), RAISES.values(), ids=RAISES)
def test_wrong_value_names_place_key_found_and_allowed(quantizer: str, args: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check(quantizer, **args)
    assert str(raised.value).startswith(f"Layer 'a' in c.json, {quantizer}: {message}")


def test_quantizer_of_the_other_tensor_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"this quantizer is not for weights; allowed: LuqWeightFakeQuantize, Arq"):
        check("UlqFakeQuantize", is_weight=True)


WARNS = {
    "weight bits": (
        "ArqWeightFakeQuantize",
        {"num_bits": 6},
        {"num_bits": 8},
        "num_bits is 6; allowed: 4, 8. 8 is used.",
    ),
    "luq weight": ("LuqWeightFakeQuantize", {"num_bits": 4}, {"num_bits": 8}, "num_bits is 4; allowed: 8. 8 is used."),
    "lnq bits": ("LnqFakeQuantize", {"num_bits": 8}, {"num_bits": 4}, "num_bits is 8; allowed: 4. 4 is used."),
    "lnq channels": (
        "LnqFakeQuantize",
        {"channel_wise": True},
        {"channel_wise": False},
        "channel_wise is True; allowed: False. False is used.",
    ),
    "wide search": (
        "UlqFakeQuantize",
        {"search_end": 2},
        {"search_end": 2.0},
        "search_end is 2.0, outside the usual [0.7, 1.3].",
    ),
    "unknown key": (
        "UlqFakeQuantize",
        {"batchnum": 1},
        {},
        "unknown key 'batchnum' is ignored. Did you mean 'batch_num'?",
    ),
    "symmetry": (
        "LuqActivationFakeQuantize",
        {"observer": "IFMRObserver", "qscheme": "affine", "with_offset": False},
        {"observer": "IFMRObserver", "qscheme": "symmetric", "with_offset": False},
        "qscheme affine contradicts with_offset False; symmetric is used.",
    ),
    "symmetry of a weight": (
        "LuqWeightFakeQuantize",
        {"qscheme": "symmetric", "with_offset": True},
        {"qscheme": "symmetric", "with_offset": False},
        "qscheme symmetric contradicts with_offset True; symmetric is used.",
    ),
    "bounds": (
        "LuqActivationFakeQuantize",
        {"quant_min": -128, "quant_max": 255},
        {"quant_min": -128},
        "quant_max is 255; with 8 bits 127 is used.",
    ),
}


@pytest.mark.parametrize(("quantizer", "args", "expected", "message"), WARNS.values(), ids=WARNS)
def test_correction_is_a_warning(
    quantizer: str, args: dict[str, object], expected: dict[str, object], message: str, log_lines
) -> None:
    assert check(quantizer, **args) == expected
    assert len(log_lines.warnings) == 1
    assert log_lines.warnings[0].startswith(f"Layer 'a' in c.json, {quantizer}: {message}")


def test_checking_twice_changes_nothing(log_lines) -> None:
    once = check("LnqFakeQuantize", cali_min_distance=1e-3, init_algo="gaussian", clip_max="2.5")
    assert once == {"min_distance": 1e-3, "init_algo": "gaussian", "clip_max": 2.5}
    assert check("LnqFakeQuantize", **once) == once
    assert not log_lines.warnings


def test_custom_class_passes_unchecked() -> None:
    args = {"observer": "torch.quantization.MinMaxObserver", "quant_min": -8, "anything": [1]}
    assert check("torch.quantization.FakeQuantize", **args) == args


def test_custom_observer_keeps_its_own_keys(log_lines) -> None:
    args = {"observer": "my.Observer", "num_bits": 8, "momentum": 0.5}
    assert check("UlqFakeQuantize", **args) == args
    assert not log_lines.warnings


def test_fixed_weight_takes_one_scale_or_a_list() -> None:
    assert check("FixedFakeQuantize", is_weight=True, scale=[1, 0.5])["scale"] == [1.0, 0.5]
    with pytest.raises(ConfigError, match=r"scale is \[1\.0, -1\.0\]; allowed: \(0, inf\)"):
        check("FixedFakeQuantize", is_weight=True, scale=[1, -1])


def test_snq_observer_knows_both_names_of_the_distance() -> None:
    known = arguments_of("SnqObserver", is_weight=True)
    assert check_values("SnqObserver", {"min_distance": 1e-4}, known, "a") == ({"cali_min_distance": 1e-4}, {})
    both = {"min_distance": 1e-4, "cali_min_distance": 1e-5}
    assert check_values("SnqObserver", both, known, "a") == ({"cali_min_distance": 1e-5}, {})


def test_what_the_class_does_not_know_is_handed_back() -> None:
    assert check_values("ArqObserver", {"esp": 1}, arguments_of("ArqObserver", is_weight=True), "a") == ({}, {"esp": 1})
    with pytest.raises(ConfigError, match="'ArqObserve' is not an algorithm of this package"):
        arguments_of("ArqObserve", is_weight=True)


def test_algorithm_strings_name_registered_classes() -> None:
    assert set(CLASS_OF_ALGORITHM.values()) <= set(QUANTIZERS) | set(OBSERVERS)
