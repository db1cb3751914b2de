"""GoldenTensor: the entry of one tensor in a golden file, and the first difference of a computed tensor from it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024  # elements of one digest, in row-major order
_DIGEST_BYTES = 8
_PART = 64 * BLOCK  # elements that are converted at a time; they stay in the processor's cache
_INTEGERS = (np.int8, np.int16, np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GoldenTensor:
    """One tensor: int32 or, at the outputs of the graph, float32.

    Attributes:
      shape: Shape of the tensor.
      blocks: uint8 [blocks, 8], the digest of each `BLOCK` of elements.
      values: All elements, integers in the smallest type that holds them; None if the tensor is too large to be stored.
    """

    shape: tuple[int, ...]
    blocks: NDArray[np.uint8]
    values: NDArray[Any] | None

    @staticmethod
    def of(array: NDArray[Any], *, keeps_values: bool) -> GoldenTensor:
        """Returns the entry of ``array``."""
        values = _narrowed(array) if keeps_values else None
        return GoldenTensor(shape=array.shape, blocks=_digests(array), values=values)

    @property
    def is_consistent(self) -> bool:
        """Whether shapes and digests fit together."""
        count = -(-math.prod(self.shape) // BLOCK)
        if self.blocks.dtype != np.uint8 or self.blocks.shape != (count, _DIGEST_BYTES):
            return False
        if self.values is None:
            return True
        is_real = np.issubdtype(self.values.dtype, np.floating)
        found = _digests(self.values, np.float32 if is_real else np.int32)
        return self.values.shape == self.shape and np.array_equal(found, self.blocks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The first element, in row-major order, that differs from the golden file.

    Attributes:
      index: Index of the element; if the golden file has no values, the first index of the element's block.
      expected: The value in the golden file; None if the golden file has no values.
      found: The computed value.
      count: Number of elements that differ; None if the golden file has no values.
      last: If the golden file has no values, the last index of the block; else None.
    """

    index: tuple[int, ...]
    expected: int | float | None
    found: int | float
    count: int | None = None
    last: tuple[int, ...] | None = None

    def __str__(self) -> str:
        """Returns the message for the user."""
        if self.last is not None:
            return (
                f"differs between {list(self.index)} and {list(self.last)}; the golden file does not hold the values of"
                " a tensor of this size"
            )
        others = "" if self.count == 1 else f", the first of {self.count} that differ"
        return f"at {list(self.index)}: expected {self.expected}, found {self.found}{others}"


def first_difference(golden: GoldenTensor, found: NDArray[Any]) -> Difference | None:
    """Returns the first difference of ``found``, which has the same shape; None if it is equal bit for bit.

    ``golden`` is consistent: where it has values, they are compared, and the digests say nothing more.
    """
    assert found.shape == golden.shape
    flat = np.ascontiguousarray(found).reshape(-1)
    if golden.values is None or golden.values.dtype.kind not in (found.dtype.kind, "b"):
        return _different_block(golden, flat)
    values = golden.values.reshape(-1)
    parts = range(0, flat.size, _PART)
    places = np.concatenate([_places(flat, values, at) for at in parts]) if parts else np.empty(0, dtype=np.int64)
    if not places.size:
        return None
    at = int(places[0])
    return Difference(
        index=_place(at, found.shape),
        expected=values[at].astype(found.dtype).item(),
        found=flat[at].item(),
        count=len(places),
    )


def _different_block(golden: GoldenTensor, flat: NDArray[Any]) -> Difference | None:
    unequal = (_digests(flat) != golden.blocks).any(axis=1)
    if not unequal.any():
        return None
    start = int(np.argmax(unequal)) * BLOCK
    last = _place(min(start + BLOCK, flat.size) - 1, golden.shape)
    return Difference(index=_place(start, golden.shape), expected=None, found=flat[start].item(), last=last)


def _places(found: NDArray[Any], values: NDArray[Any], start: int) -> NDArray[np.int64]:
    """Returns where the part that begins at ``start`` differs in its bits, so that a NaN equals itself."""
    part = found[start : start + _PART]
    unequal = part.view(np.int32) != values[start : start + _PART].astype(part.dtype).view(np.int32)
    return np.flatnonzero(unequal) + start


def _place(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(one) for one in np.unravel_index(position, shape)) if shape else ()


def _digests(array: NDArray[Any], dtype: type[np.generic] | None = None) -> NDArray[np.uint8]:
    """Returns the first bytes of the SHA-256 of each block of little-endian 4-byte elements.

    ``dtype``: the type in which elements are digested, a part at a time; None for that of ``array``.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    target = np.dtype(array.dtype if dtype is None else dtype).newbyteorder("<")
    size = BLOCK * target.itemsize
    digests: list[bytes] = []
    for start in range(0, flat.size, _PART):
        part = flat[start : start + _PART].astype(target, copy=False).view(np.uint8).data
        digests += [hashlib.sha256(part[at : at + size]).digest()[:_DIGEST_BYTES] for at in range(0, len(part), size)]
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, _DIGEST_BYTES)


def _narrowed(array: NDArray[Any]) -> NDArray[Any]:
    if not np.issubdtype(array.dtype, np.integer) or not array.size:
        return array
    low, high = int(array.min()), int(array.max())
    return array.astype(next(one for one in _INTEGERS if np.iinfo(one).min <= low and high <= np.iinfo(one).max))
