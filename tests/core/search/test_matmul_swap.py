"""The gain of a swapped matmul against a reference in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hotwheels.amct_pytorch.core.search.matmul_swap import is_swappable, sqnr_as_is, sqnr_swapped, symmetric_grid


def rounded(x: Tensor, scale: float, num_bits: int) -> np.ndarray:
    top = 2 ** (num_bits - 1) - 1
    steps = np.clip(np.rint(x.numpy() / np.float32(scale)), -top - 1, top)
    return (steps * np.float32(scale)).astype(np.float64)


def decibel(wanted: np.ndarray, got: np.ndarray) -> float:
    return 10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum())


@pytest.mark.parametrize(
    "shapes",
    [((5, 7), (7, 3)), ((2, 5, 7), (2, 7, 3)), ((5, 7), (2, 7, 3)), ((2, 4, 5, 7), (7, 3))],
    ids=str,
)
def test_both_orders_against_numpy(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(shapes[0]), torch.randn(shapes[1]) * 40
    grids = symmetric_grid(first, 8), symmetric_grid(second, 8)
    wanted = first.double().numpy() @ second.double().numpy()
    a, b = (rounded(x, float(grid.scale), 8) for x, grid in zip((first, second), grids, strict=True))
    assert sqnr_as_is(first, second, grids) == pytest.approx(decibel(wanted, a @ b), abs=1e-3)

    wide = rounded(second, float(symmetric_grid(second, 12).scale), 12)
    assert sqnr_swapped(first, second, 12) == pytest.approx(decibel(wanted, a @ wide), abs=1e-3)


def test_the_first_input_pays_with_its_bits() -> None:
    """A swap takes 12 bits from the first input: with a harmless second one it loses."""
    torch.manual_seed(0)
    first, second = torch.randn(8, 8) ** 3, torch.randint(-127, 128, (8, 8)).float()
    second[0, 0] = 127.0
    grids = symmetric_grid(first, 12), symmetric_grid(second, 8)
    assert sqnr_as_is(first, second, grids) > sqnr_swapped(first, second, 12) + 20


def test_vectors_are_not_swappable() -> None:
    assert is_swappable(torch.zeros(2, 3), torch.zeros(3, 2))
    assert not is_swappable(torch.zeros(3), torch.zeros(3, 2))
    assert not is_swappable(torch.zeros(2, 3), torch.zeros(3))
