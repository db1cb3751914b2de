"""Constructors of quantizers and observers use the values that the check of their arguments returns (spec 7.1)."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.config.arguments.algorithms import OBSERVERS, QUANTIZERS, arguments_of
from hotwheels.amct_pytorch.errors import ConfigError
from hotwheels.amct_pytorch.quantizers.fixed import FixedWeightFakeQuantize

ACTIVATIONS = (amct.UlqFakeQuantize, amct.LuqActivationFakeQuantize)
WEIGHTS = (amct.ArqWeightFakeQuantize, amct.SnqWeightFakeQuantize, amct.LnqFakeQuantize, amct.LuqWeightFakeQuantize)
FIXED = {amct.FixedFakeQuantize: {"scale": "0.5", "zero_point": 3.0}, FixedWeightFakeQuantize: {"scale": "0.5"}}
SEEN = (amct.IFMRObserver, amct.LuqMseObserver, amct.ArqObserver, amct.SnqObserver)
ALL = (*ACTIVATIONS, *WEIGHTS, *FIXED, *SEEN)
NAMES = {FixedWeightFakeQuantize: "FixedFakeQuantize"}
W = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def is_weight(cls: type) -> bool:
    return cls in (*WEIGHTS, FixedWeightFakeQuantize, amct.ArqObserver, amct.SnqObserver)


@pytest.mark.parametrize("cls", ALL)
def test_a_width_may_be_text(cls: type) -> None:
    bits = 4 if cls in (amct.SnqWeightFakeQuantize, amct.LnqFakeQuantize, amct.SnqObserver) else 8
    made = cls(num_bits=f"{bits}", **FIXED.get(cls, {}))
    assert made.num_bits == bits
    assert type(made.num_bits) is int
    if hasattr(made, "observer"):
        assert made.observer.num_bits == bits


@pytest.mark.parametrize("cls", ALL)
def test_what_is_no_width_is_an_error_or_the_widest_one(cls: type) -> None:
    with pytest.raises(ConfigError, match="num_bits is 'wide'"):
        cls(num_bits="wide", **FIXED.get(cls, {}))


FALSE = (False, "false", "False", "no")


@pytest.mark.parametrize("word", FALSE)
def test_the_word_false_is_false(word: Any) -> None:
    x = torch.linspace(-3, 2, 100)
    ulq = amct.UlqFakeQuantize(fixed_min=word)
    ulq.observe(x)
    assert ulq.clip_min < 0
    for made in (amct.UlqFakeQuantize(with_offset=word), amct.LuqActivationFakeQuantize(with_offset=word)):
        made.observe(x)
        assert int(made.params().offset) == 0
    assert amct.IFMRObserver(with_offset=word).is_symmetric
    for cls in (amct.ArqWeightFakeQuantize, amct.SnqWeightFakeQuantize):
        made = cls(channel_wise=word)
        made.observe(W)
        assert made.params(W).scale.shape == ()
    assert amct.LnqFakeQuantize(symmetric=word).is_mirrored is False
    assert amct.ArqObserver(channel_wise=word).channel_wise is False
    assert amct.SnqObserver(channel_wise=word).channel_wise is False


def test_numbers_may_be_text() -> None:
    ulq = amct.UlqFakeQuantize(clip_max="2.5", clip_min="-1", batch_num="3")
    assert (float(ulq.clip_max), float(ulq.clip_min), ulq.observer.batch_num) == (2.5, -1.0, 3)
    assert amct.LnqFakeQuantize(cluster_freq="7", max_iteration=600.0).cluster_freq == 7
    assert amct.LuqMseObserver(steps="11").steps == 11
    assert amct.ArqObserver(eps="1e-5").eps == 1e-5
    fixed = amct.FixedFakeQuantize(scale="0.5", zero_point="3")
    assert (float(fixed.params().scale), int(fixed.params().offset)) == (0.5, 3)


def test_a_subclass_hands_its_arguments_on() -> None:
    class Own(amct.UlqFakeQuantize):
        def __init__(self, **args: Any) -> None:
            super().__init__(num_bits="12", **args)

    assert Own(fixed_min="false").num_bits == 12


def test_another_spelling_of_the_observer_s_range() -> None:
    options = amct.IFMRObserver(search_range=["0.8", 1.2]).options
    assert (options.search_start, options.search_end) == (0.8, 1.2)


def test_what_nobody_knows_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="batch_nun"):
        amct.UlqFakeQuantize(batch_nun=3)


@pytest.mark.parametrize("cls", ALL)
def test_defaults_of_the_signature_are_those_of_the_table(cls: type) -> None:
    """None in a signature is no default: the observer decides, or a value is found."""
    table = arguments_of(NAMES.get(cls, cls.__name__), is_weight(cls))
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in table and name not in ("observer", "object_layer") and parameter.default is not None:
            expected = parameter.empty if table[name].is_required else table[name].default
            assert parameter.default == expected, name


def test_every_algorithm_is_tested() -> None:
    assert {NAMES.get(cls, cls.__name__) for cls in ALL} == {*QUANTIZERS, *OBSERVERS}
