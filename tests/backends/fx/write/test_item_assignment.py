"""Items assigned inside a module of a library, which the writer runs call by call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.support.written import assert_same, run_default, write

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def numbers(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0], y[..., -1] = 1.0, x.mean()
    return y


def parts(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 1:] = x[:, :-1]
    y[:, :, ::2] = y[:, :, 1::2] * 2
    return y


def mask(x: Tensor) -> Tensor:
    y = x * 1
    y[y < 0] = 0.5
    return y


def into_a_constant(x: Tensor) -> Tensor:
    y = torch.zeros(4, 6)
    y[1:3] = x[0, :2, 0]
    return x + y[:, None]


@pytest.mark.parametrize("function", [numbers, parts, mask, into_a_constant])
def test_items_are_assigned_in_the_file(function: Callable[[Tensor], Tensor]) -> None:
    assert_same(run_default(write(function, (X,), 13), (X,)), [function(X)])
