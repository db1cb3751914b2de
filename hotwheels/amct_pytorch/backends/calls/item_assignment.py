"""Assignment to an index as a function: a graph needs a new tensor, while ``x[index] = value`` changes ``x``.

And masks in an index as numbers of places, whose count is known if the mask is a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def with_item(x: Tensor, index: Any, value: Any) -> Tensor:
    """Returns a copy of ``x`` with ``value`` at ``index``."""
    x = x.clone()
    x[index] = value
    return x


def with_places(index: Any, place: Callable[[Tensor, int], Any]) -> Any:
    """Returns ``index`` with the places that a mask chooses instead of the mask: ``place(mask, axis)`` for each axis.

    A mask stays if ``place`` returns it.
    """
    entries: list[Any] = []
    for one in index if isinstance(index, tuple) else (index,):
        if isinstance(one, Tensor) and one.dtype is torch.bool and one.dim():
            first = place(one, 0)
            entries += [one] if first is one else [first, *(place(one, axis) for axis in range(1, one.dim()))]
        elif isinstance(one, list) and one and all(type(each) is bool for each in one):
            entries.append([place for place, is_chosen in enumerate(one) if is_chosen])
        else:
            entries.append(one)
    return tuple(entries) if isinstance(index, tuple) or len(entries) > 1 else entries[0]


def place_of(mask: Tensor, axis: int) -> Tensor:
    """Returns the numbers of the chosen elements along ``axis``, int64 [count]."""
    return mask.nonzero()[:, axis]


def joined_item(x: Tensor, index: Any, value: Any) -> Any:
    """Returns `with_item` computed by slices and joins, of which exporters know more forms than of assignment.

    NotImplemented for masks beside other indices or with several values, and for several lists or tensors of indices.
    """
    chosen = _where(x, index if isinstance(index, tuple) else (index,), value)
    if chosen is not NotImplemented:
        return chosen
    places = _places(index if isinstance(index, tuple) else (index,), x.dim())
    listed = sum(isinstance(one, (list, Tensor)) for one in places)
    if listed > 1 and all(isinstance(one, Tensor) and one.dtype is torch.int64 for one in places):
        filled = value if isinstance(value, Tensor) else torch.full((), value, dtype=x.dtype, device=x.device)
        return torch.index_put(x, tuple(places), filled.to(x.dtype))
    if not all(map(_is_plain, places)) or listed > 1 or (listed and any(map(_is_number, places))):
        return NotImplemented
    return _joined(x, 0, places, value)


def _where(x: Tensor, index: tuple[Any, ...], value: Any) -> Any:
    """Returns `with_item` of one value and a mask behind full slices; NotImplemented for others."""
    *before, mask = index or (None,)
    is_mask = isinstance(mask, Tensor) and mask.dtype is torch.bool and mask.dim() > 0
    is_value = not value.dim() if isinstance(value, Tensor) else isinstance(value, (int, float))
    if not is_mask or not is_value or any(not isinstance(one, slice) or one != slice(None) for one in before):
        return NotImplemented
    mask = mask.reshape(*mask.shape, *[1] * (x.dim() - len(before) - mask.dim()))
    filled = value.to(x.dtype) if isinstance(value, Tensor) else torch.full((), value, dtype=x.dtype, device=x.device)
    return torch.where(mask, filled, x)


def _places(given: Sequence[Any], rank: int) -> list[Any]:
    """Returns the index without an ellipsis, as far as it has an entry other than a full slice."""
    at = next((place for place, one in enumerate(given) if one is Ellipsis), len(given))
    taken = sum(one is not None and one is not Ellipsis for one in given)
    return [*given[:at], *[slice(None)] * (rank - taken if at < len(given) else 0), *given[at + 1 :]]


def _joined(x: Tensor, axis: int, places: Sequence[Any], value: Any) -> Any:
    if not places:
        return _filled(x, value)
    one, rest = places[0], places[1:]
    if one is None:
        inner = _joined(x.unsqueeze(axis), axis + 1, rest, value)
        return inner if inner is NotImplemented else inner.squeeze(axis)
    if _is_number(one):
        inner = _joined(x.select(axis, one), axis, rest, value)
        return inner if inner is NotImplemented else _between(x, axis, inner.unsqueeze(axis), one, _behind(one))
    if isinstance(one, slice) and one.step in (None, 1):
        if one == slice(None) or (one.start in (None, 0) and one.stop is None):
            return _joined(x, axis + 1, rest, value)
        start, stop = _bounds(one, x.shape[axis])
        inner = _joined(_cut(x, axis, start, stop), axis + 1, rest, value)
        return inner if inner is NotImplemented else _between(x, axis, inner, start, stop)
    size = x.shape[axis]
    if isinstance(one, slice):
        if type(size) is not int:
            return NotImplemented
        one = list(range(size)[one])
    numbers = torch.tensor(one, device=x.device) if isinstance(one, list) else one
    if isinstance(one, Tensor) or min(one) < 0:
        numbers = torch.where(numbers < 0, numbers + size, numbers)
    inner = _joined(x.index_select(axis, numbers), axis + 1, rest, value)
    if inner is NotImplemented or isinstance(one, Tensor) or type(size) is not int:
        return inner if inner is NotImplemented else x.index_copy(axis, numbers, inner)
    order = list(range(size))
    for place, number in enumerate(one):
        order[number] = size + place
    return torch.cat([x, inner], axis).index_select(axis, torch.tensor(order, device=x.device))


def _filled(x: Tensor, value: Any) -> Any:
    """Returns ``value`` in the shape and type of ``x``."""
    if not isinstance(value, Tensor):
        return torch.full_like(x, value)
    while value.dim() > x.dim() and value.shape[0] == 1:
        value = value[0]
    if value.dim() > x.dim():
        return NotImplemented
    return value.to(x.dtype).expand_as(x)


def _between(x: Tensor, axis: int, part: Tensor, start: Any, stop: Any) -> Tensor:
    """Returns ``part`` between what ``x`` has before ``start`` and behind ``stop``; None is the end."""
    before = [] if start == 0 else [_cut(x, axis, None, start)]
    behind = [] if stop is None else [_cut(x, axis, stop, None)]
    return torch.cat([*before, part, *behind], axis) if before or behind else part


def _bounds(one: slice, size: Any) -> tuple[Any, Any]:
    """Returns start and stop, with None for the end; numbers inside the axis if its size is known."""
    if type(size) is int and _are_ints(one.start, one.stop):
        start, stop, _ = one.indices(size)
        return start, None if stop >= size else max(start, stop)
    return (0 if one.start is None else one.start), one.stop


def _cut(x: Tensor, axis: int, start: Any, stop: Any) -> Tensor:
    return x[(*(slice(None),) * axis, slice(start, stop))]


def _behind(number: Any) -> Any:
    return None if type(number) is int and number == -1 else number + 1


def _are_ints(*ends: Any) -> bool:
    return all(one is None or type(one) is int for one in ends)


def _is_number(one: Any) -> bool:
    return isinstance(one, (int, torch.SymInt)) and not isinstance(one, bool)


def _is_plain(one: Any) -> bool:
    if isinstance(one, slice):
        return not any(isinstance(end, Tensor) for end in (one.start, one.stop, one.step))
    if isinstance(one, Tensor):
        return one.dim() == 1 and one.dtype is torch.int64
    if isinstance(one, list):
        return bool(one) and all(type(number) is int for number in one)
    return one is None or _is_number(one)
