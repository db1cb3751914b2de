"""Quantiles, modes and running sums, written as sorts and comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def _quantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Any:
    """Returns the element number ``q * (size - 1)`` of the sorted axis; between two elements as torch does."""
    if dim is None:
        found = _quantile(input.flatten(), q, 0, interpolation=interpolation)
        if found is NotImplemented or not keepdim:
            return found
        counts = found.shape[: found.dim()]
        return found.reshape(*counts, *[1] * input.dim())
    size = input.shape[dim] if input.dim() else 1
    if not isinstance(size, int) or not input.dim():
        return NotImplemented
    asked = torch.as_tensor(q, dtype=input.dtype)
    ranks = asked.reshape(-1) * (size - 1)
    if interpolation == "nearest":
        ranks = ranks.round()
    below, above = ranks.floor(), ranks.ceil()
    weights = {"lower": torch.zeros_like(ranks), "higher": torch.ones_like(ranks), "midpoint": (above - below) / 2}
    weight = weights.get(interpolation, ranks - below)
    ordered = torch.sort(input, dim).values.movedim(dim, 0)
    shape = (-1, *[1] * (input.dim() - 1))
    low, high = (ordered.index_select(0, one.to(torch.int64)) for one in (below, above))
    found = torch.where(low == high, low, low + (high - low) * weight.reshape(shape))
    found = torch.where(torch.isnan(input).any(dim).unsqueeze(0), math.nan, found)
    found = found.unsqueeze(dim % input.dim() + 1) if keepdim else found
    return found if asked.dim() else found.squeeze(0)


def _nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """Returns the lower median of the elements that are numbers, and its place; NaN if there is none."""
    if not input.is_floating_point() or not input.dim():
        return NotImplemented
    if dim is None:
        return _nanmedian(input.flatten(), 0)[0]
    is_nan = torch.isnan(input)
    values, places = torch.sort(torch.where(is_nan, math.inf, input), dim)
    count = (~is_nan).to(torch.int64).sum(dim, True)
    rank = torch.div(count - 1, 2, rounding_mode="floor").clamp(min=0)
    value = torch.where(count == 0, math.nan, values.gather(dim, rank))
    place = places.gather(dim, rank)
    both = (value, place) if keepdim else (value.squeeze(dim), place.squeeze(dim))
    return torch.return_types.nanmedian(both)


def _nanmean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    x = input if dtype is None else input.to(dtype)
    is_nan = torch.isnan(x)
    values, counts = torch.where(is_nan, 0.0, x), (~is_nan).to(x.dtype)
    if dim is None:
        return values.sum() / counts.sum()
    return values.sum(dim, keepdim) / counts.sum(dim, keepdim)


def _mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    """Returns the most frequent element, of several the smallest, and the last place of it."""
    if not input.dim() or not isinstance(input.shape[dim], int):
        return NotImplemented
    dim %= input.dim()
    counts = (input.unsqueeze(dim) == input.unsqueeze(dim + 1)).to(torch.int32).sum(dim + 1)
    rank = torch.arange(input.shape[dim], device=input.device).reshape(-1, *[1] * (input.dim() - dim - 1))
    ordered, places = torch.sort(input, dim)
    # Of the elements in their order, the first that occurs most often.
    often = counts.gather(dim, places)
    first = often.argmax(dim, True)
    value = ordered.gather(dim, first)
    place = torch.where(input == value, rank, -1).amax(dim, True)
    both = (value, place) if keepdim else (value.squeeze(dim), place.squeeze(dim))
    return torch.return_types.mode(both)


def _isin(elements: Any, test_elements: Any, *, invert: bool = False, **_: Any) -> Any:
    if not isinstance(elements, Tensor) or not isinstance(test_elements, Tensor):
        return NotImplemented
    found = (elements.unsqueeze(-1) == test_elements.reshape(-1)).any(-1)
    return ~found if invert else found


RANK_FORMS: Mapping[str, Callable[..., Any]] = {
    "quantile": _quantile,
    "nanmedian": _nanmedian,
    "nanmean": _nanmean,
    "mode": _mode,
    "isin": _isin,
}
