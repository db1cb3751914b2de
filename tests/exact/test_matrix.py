"""real_quant == oracle on every integer, over a matrix that hypothesis draws (spec 10.5)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings

from tests.support.exact_matrix import CASES, Case, data, quantized_net
from tests.support.exact_pair import assert_exact

# 200 in CI; `make test-exact` sets 2,000.
_COUNT = int(os.environ.get("AMCT_EXACT_CASES", "200"))


@settings(
    max_examples=_COUNT,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(CASES)
def test_every_integer_is_equal(case: Case) -> None:
    with tempfile.TemporaryDirectory() as name:
        quantized = quantized_net(case, Path(name))
        assert_exact(quantized, Path(name), [data(case)])
