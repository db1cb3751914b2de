"""real_quant == oracle on every integer of refined models, for every method and both kinds of grid (spec 2.5, 10.5)."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.config.layers.refine_config import DEFAULT_METHODS, METHODS
from hotwheels.amct_pytorch.core.refine import soft_rounding
from tests.support.exact_matrix import CASES, Case, data, quantized_net
from tests.support.exact_pair import assert_exact

_COUNT = int(os.environ.get("AMCT_EXACT_CASES", "200")) // 10
_STEPS = 20  # of learning: enough to move weights
_CHOICES = {**{name: (name,) for name in METHODS}, "default": DEFAULT_METHODS, "all": METHODS}


@pytest.mark.parametrize("methods", _CHOICES.values(), ids=_CHOICES)
@settings(
    max_examples=_COUNT,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    case=CASES,
    weights=st.sampled_from(["uniform 8", "uniform 4", "per tensor", "SNQ", "LNQ"]),
    pictures=st.integers(4, 9),
)
def test_every_integer_is_equal(methods: tuple[str, ...], case: Case, weights: str, pictures: int) -> None:
    case = dataclasses.replace(case, weights=weights, shape=(pictures, *case.shape[1:]))
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(soft_rounding, "STEPS", _STEPS)
        quantized = quantized_net(case, Path(name))
        amct.refine(quantized, [data(case)], methods, progress=False)
        assert_exact(quantized, Path(name), [data(case)])
