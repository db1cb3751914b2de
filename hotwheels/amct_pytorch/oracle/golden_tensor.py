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
    """Returns the first difference of ``found``, which has the same shape; None if it is equal bit for bit."""
    assert found.shape == golden.shape
    unequal = (_digests(found) != golden.blocks).any(axis=1)
    if not unequal.any():
        return None
    flat = np.ascontiguousarray(found).reshape(-1)
    if golden.values is None:
        start = int(np.argmax(unequal)) * BLOCK
        last = _place(min(start + BLOCK, found.size) - 1, found.shape)
        return Difference(index=_place(start, found.shape), expected=None, found=flat[start].item(), last=last)
    expected = golden.values.reshape(-1).astype(found.dtype)
    places = np.flatnonzero(flat.view(np.int32) != expected.view(np.int32))  # bits, so that a NaN equals itself
    at = int(places[0])
    return Difference(
        index=_place(at, found.shape), expected=expected[at].item(), found=flat[at].item(), count=len(places)
    )


def _place(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(one) for one in np.unravel_index(position, shape)) if shape else ()


def _digests(array: NDArray[Any], dtype: type[np.generic] | None = None) -> NDArray[np.uint8]:
    """Returns the first bytes of the SHA-256 of each block of little-endian 4-byte elements.

    ``dtype``: the type in which elements are digested, a block at a time; None for that of ``array``.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    target = np.dtype(array.dtype if dtype is None else dtype).newbyteorder("<")
    blocks = (flat[at : at + BLOCK].astype(target) for at in range(0, flat.size, BLOCK))
    digests = [hashlib.sha256(block.view(np.uint8).data).digest()[:_DIGEST_BYTES] for block in blocks]
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, _DIGEST_BYTES)


def _narrowed(array: NDArray[Any]) -> NDArray[Any]:
    if not np.issubdtype(array.dtype, np.integer) or not array.size:
        return array
    low, high = int(array.min()), int(array.max())
    return array.astype(next(one for one in _INTEGERS if np.iinfo(one).min <= low and high <= np.iinfo(one).max))
