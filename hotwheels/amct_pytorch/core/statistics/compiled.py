"""The compiled forms of RangeStatistics.update and of least_error: core/range_kernels.c and core/search_kernels.c.

Each gets the state and the constants of the computation in NumPy, which stands beside the calls, and returns the same
bits. The structures here are those of the C files.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .. import native
from . import histogram, sampling
from .tail import CAPACITY, Tail

Values = NDArray[np.float32]
Numbers = NDArray[np.float64]
_POINTER, _LONG, _DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


class _State(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("counts", "atoms", "weights", "largest", "smallest")),
        *((name, _LONG) for name in ("bins", "first", "exponent", "is_empty")),
        *((name, _LONG) for name in ("atom_count", "largest_count", "smallest_count")),
        ("found", _POINTER),
    )


class _Plan(ctypes.Structure):
    _fields_ = (
        *((name, _LONG) for name in ("whole", "length", "block", "per_block", "samples")),
        *((name, _LONG) for name in ("low_rank", "high_rank", "is_symmetric")),
        *((name, _LONG) for name in ("groups", "capacity", "tail_rows", "plenty")),
        *((name, _LONG) for name in ("most_atoms", "smallest_exponent", "index_bits")),
        *((name, _DOUBLE) for name in ("distance", "tail_start")),
    )


class _Seen(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("counts", "atoms", "weights", "tails", "values")),
        *((name, _LONG) for name in ("bins", "first", "exponent", "atom_count", "tail_count", "value_count")),
        *((name, _DOUBLE) for name in ("lowest", "highest", "narrowest", "nearly_best")),
    )


_OBSERVE = "amct_observe", (_POINTER, _LONG, _POINTER, _POINTER, _POINTER)
_LEAST_ERROR = "amct_least_error", (_POINTER, _POINTER, _POINTER, _POINTER, _LONG, _POINTER), _LONG


def observes(flat: Tensor) -> bool:
    """Whether `observe` takes this tensor of one dimension."""
    return native.handles(flat) and native.function(*_OBSERVE) is not None


def observe(
    seen: histogram.GridHistogram, tails: tuple[Tail, Tail], flat: Tensor, wish: sampling.Wish
) -> tuple[float, float] | None:
    """Takes the elements of ``flat`` into a histogram and the tails of the largest and of the negated smallest values.

    Returns the smallest and the largest element; None if an element is NaN or infinite: then nothing is taken.
    """
    watched = len(seen.atoms)
    atoms = np.zeros((2, watched + histogram.MOST_ATOMS))
    atoms[0, :watched], atoms[1, :watched] = list(seen.atoms), list(seen.atoms.values())
    kept, ends = np.empty((2, CAPACITY), dtype=np.float32), np.empty(2, dtype=np.float32)
    for row, tail in zip(kept, tails, strict=True):
        row[: tail.values.size] = tail.values
    pointers = _addresses(seen.counts, *atoms, *kept)
    numbers = seen.counts.size, seen.first, seen.exponent or 0, seen.exponent is None
    state = _State(*pointers, *numbers, watched, *(tail.values.size for tail in tails))
    arguments = ctypes.byref(_plan(flat.numel(), wish)), ctypes.byref(state), *_addresses(ends)
    if native.function(*_OBSERVE)(flat.data_ptr(), flat.numel(), *arguments):
        raise MemoryError
    if np.isnan(ends[0]):
        return None
    seen.first, seen.exponent = state.first, None if state.is_empty else state.exponent
    seen.atoms = dict(zip(atoms[0, : state.atom_count].tolist(), atoms[1].tolist(), strict=False))
    for row, tail, size in zip(kept, tails, (state.largest_count, state.smallest_count), strict=True):
        tail.values = row[:size]
    return float(ends[0]), float(ends[1])


def _plan(count: int, wish: sampling.Wish) -> _Plan:
    rows = sampling.Rows.of(count, wish.sample_size)
    per_block = rows.samples_of(rows.block)
    samples = rows.count // rows.block * per_block + rows.samples_of(rows.count % rows.block)
    constants = sampling.LEAST_ROWS, CAPACITY, sampling.TAIL_ROWS, sampling.PLENTY
    of_bins = histogram.MOST_ATOMS, histogram.SMALLEST_EXPONENT, histogram.LARGEST_INDEX_BITS
    cut = rows.size, rows.length, rows.block, per_block, samples
    return _Plan(*cut, *wish.ranks, wish.symmetric, *constants, *of_bins, rows.distance, wish.tail_start)


def finds_least() -> bool:
    """Whether `least_error` can be called."""
    return native.function(*_LEAST_ERROR) is not None


def least_error(
    seen: histogram.GridHistogram,
    tails: tuple[Tail, Tail],
    values: Values | None,
    grids: tuple[Numbers, Numbers, Numbers],
    nearly_best: float,
) -> tuple[int, Numbers]:
    """Returns what grid_error.least_error and grid_error.expected_errors return for ``grids``: (scale, low, high).

    ``values`` are all values seen, if they are known.
    """
    largest, smallest = tails
    atoms = np.array([list(seen.atoms), list(seen.atoms.values())])
    outer = np.concatenate((-smallest.values[::-1], largest.values))
    arrays = seen.counts, *atoms, outer
    sizes = seen.counts.size, seen.first, seen.exponent or 0, len(seen.atoms), outer.size
    constants = -smallest.floor, largest.floor, histogram.NARROWEST_BIN, nearly_best
    address, count = (None, 0) if values is None else (*_addresses(values), values.size)
    found = _Seen(*_addresses(*arrays), address, *sizes, count, *constants)
    dense = [np.ascontiguousarray(one, dtype=np.float64) for one in grids]
    errors = np.empty_like(dense[0])
    arguments = *_addresses(*dense), errors.size, *_addresses(errors)
    best = native.function(*_LEAST_ERROR)(ctypes.byref(found), *arguments)
    if best < 0:
        raise MemoryError
    return best, errors


def _addresses(*arrays: NDArray[Any]) -> list[int]:
    return [_address(one) for one in arrays]


def _address(array: Any) -> int:
    try:  # a quarter of the time of the description of the whole array
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):  # it must not be written to, or is empty
        address: int = array.__array_interface__["data"][0]
        return address
