"""Finds calls that draw random numbers: they stay calls of the graph, so that every run draws new numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_FUNCTIONS = frozenset(
    getattr(torch, name)
    for name in (
        *("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson", "binomial"),
        *("rand_like", "randn_like", "randint_like"),
    )
)
_METHODS = frozenset(
    getattr(Tensor, name)
    for name in (
        *("bernoulli", "bernoulli_", "uniform_", "normal_", "random_", "exponential_", "geometric_", "cauchy_"),
        *("log_normal_", "multinomial"),
    )
)


def is_random(function: Callable[..., Any]) -> bool:
    """Whether ``function``, of torch, draws random numbers."""
    try:
        return function in _FUNCTIONS or function in _METHODS
    except TypeError:  # cannot be hashed
        return False
