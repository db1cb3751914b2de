"""The gain of swapping the inputs of a matmul: the former second input, limited to 8 bits, may then have more."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ..affine import fake_quantize
from ..metrics import sqnr_db
from ..params import QuantParams
from ..spec import SECOND_INPUT_BITS, QuantSpec
from .ifmr import IfmrOptions, search


def is_swappable(first: Tensor, second: Tensor) -> bool:
    """Whether ``first @ second`` is a product of matrices, batched or not; vectors have no transpose."""
    return first.dim() > 1 and second.dim() > 1


def sqnr_as_is(first: Tensor, second: Tensor, grids: tuple[QuantParams, QuantParams]) -> float:
    """Returns the SQNR, in dB, of ``first @ second`` with both inputs [..., m, k], [..., k, n] on the given grids."""
    first, second = first.float(), second.float()
    return sqnr_db(first @ second, _round(first, grids[0]) @ _round(second, grids[1]))


def sqnr_swapped(first: Tensor, second: Tensor, num_bits: int) -> float:
    """Returns the SQNR, in dB, of ``(second^T @ first^T)^T`` against ``first @ second``.

    ``second``, which has become the first input, has ``num_bits`` bits and ``first`` has 8 (spec 5.4), on the symmetric
    grids that IFMR finds for these tensors.
    """
    first, second = first.float(), second.float()
    rounded_second = _round(second, symmetric_grid(second, num_bits))
    rounded_first = _round(first, symmetric_grid(first, SECOND_INPUT_BITS))
    swapped = rounded_second.transpose(-1, -2) @ rounded_first.transpose(-1, -2)
    return sqnr_db(first @ second, swapped.transpose(-1, -2))


def symmetric_grid(x: Tensor, num_bits: int) -> QuantParams:
    """Returns the symmetric grid that IFMR with its default options finds for ``x``."""
    spec, options = QuantSpec(num_bits=num_bits, symmetric=True), IfmrOptions()
    statistics = options.new_statistics(spec)
    statistics.update(x)
    found = search(statistics, spec, options)
    grid = found.params(num_bits)
    return dataclasses.replace(grid, scale=grid.scale.to(x.device), offset=grid.offset.to(x.device))


def _round(x: Tensor, grid: QuantParams) -> Tensor:
    return fake_quantize(x, grid.scale, grid.offset, grid.num_bits)
