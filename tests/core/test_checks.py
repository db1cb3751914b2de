import math

import pytest
from interval import Interval

from hotwheels.amct_pytorch.core import checks
from hotwheels.amct_pytorch.errors import ConfigError

HALF_OPEN = Interval(0.5, 1.0, lower_closed=False)


@pytest.mark.parametrize("value", [0.6, 1.0, 1])
def test_interval_lets_members_pass(value):
    checks.check_interval("max_percentile", value, HALF_OPEN)


@pytest.mark.parametrize("value", [0.5, 1.1, math.nan, math.inf, "0.7", None, True, [0.7]])
def test_interval_names_argument_bounds_and_value(value):
    with pytest.raises(ConfigError, match=r"max_percentile must be a number in \(0.5, 1.0\], got"):
        checks.check_interval("max_percentile", value, HALF_OPEN)


@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, True, "3", None])
def test_positive_int(value):
    checks.check_positive_int("batch_num", 1)
    with pytest.raises(ConfigError, match=r"batch_num must be an integer in \(0, inf\)"):
        checks.check_positive_int("batch_num", value)


def test_in_lists_what_is_allowed():
    checks.check_in("init_algo", "uniform", ("uniform", "gaussian"))
    with pytest.raises(ConfigError, match="init_algo must be one of 'uniform', 'gaussian'; got 'unifrom'"):
        checks.check_in("init_algo", "unifrom", ("uniform", "gaussian"))


def test_in_names_the_nearest_of_many():
    names = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
    with pytest.raises(ConfigError, match="Did you mean 'gamma'"):
        checks.check_in("name", "gama", names)


@pytest.mark.parametrize("bits", [4, *range(8, 17)])
def test_activation_bits(bits):
    checks.check_bits("num_bits", bits)


@pytest.mark.parametrize("bits", [2, 3, 5, 7, 17, 8.0, True, "8", None, [8]])
def test_other_bits_are_refused(bits):
    with pytest.raises(ConfigError, match="num_bits must be one of 4, 8, 9"):
        checks.check_bits("num_bits", bits)
    with pytest.raises(ConfigError, match="num_bits must be one of 4, 8; got"):
        checks.check_weight_bits("num_bits", bits)


def test_type():
    checks.check_type("f: argument 'x'", 1, int, float)
    checks.check_type("f: argument 'x'", True, bool)
    for value in ("1", True, None):
        with pytest.raises(TypeError, match="f: argument 'x' must be int or float, got"):
            checks.check_type("f: argument 'x'", value, int, float)


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_bool(value):
    checks.check_bool("with_offset", False)
    with pytest.raises(ConfigError, match="with_offset must be true or false"):
        checks.check_bool("with_offset", value)
