"""RowsTensor: a constant that is computed while it is written, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

_CHUNK = 1 << 22  # bytes of float32 that are in memory at once
_COLUMNS = 256  # columns of a transposed matrix that are copied at once, so that their lines stay in the cache


class RowsTensor(ir.LazyTensor):
    """A tensor whose slice ``[start:stop]`` of axis 0 is computed by ``rows(start, stop)``; no slice is kept."""

    def __init__(
        self, rows: Callable[[int, int], NDArray[Any]], dtype: ir.DataType, shape: tuple[int, ...], name: str = ""
    ) -> None:
        """``dtype`` is the type in the file; rows of other types are cast. ``shape`` has at least one axis."""
        super().__init__(lambda: ir.Tensor(self._slice(0, shape[0]), dtype=dtype), dtype, ir.Shape(shape), name=name)
        self._rows = rows
        self._count = shape[0]

    def tofile(self, file: BinaryIO) -> None:
        """Writes the rows, with only a few of them in memory at a time."""
        bytes_of_row = 4 * self.size // max(1, self._count)
        # An even number of rows: two elements of 4 bits share a byte.
        step = max(2, _CHUNK // max(1, bytes_of_row) & ~1)
        for start in range(0, self._count, step):
            rows = in_order(self._slice(start, min(start + step, self._count)))
            ir.Tensor(rows, dtype=self.dtype).tofile(
                file
            )  # an array that is not in order is written element by element

    def _slice(self, start: int, stop: int) -> NDArray[Any]:
        return self._rows(start, stop).astype(self.dtype.numpy(), copy=False)


class ScaledTensor(RowsTensor):
    """A float32 tensor: each row is a row of ``base`` times an element of ``factor``, computed when it is read.

    Attributes:
      base: Array of the shape of the tensor.
      factor: Array with one element for each row, shaped to broadcast against ``base``.
    """

    def __init__(self, base: NDArray[np.float32], factor: NDArray[np.float32], name: str = "") -> None:
        """``factor`` is [rows, 1, ...]."""
        super().__init__(self._product, ir.DataType.FLOAT, base.shape, name)
        self.base, self.factor = base, factor

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Returns some rows."""
        return self._product(rows.start, rows.stop)

    def _product(self, start: int, stop: int) -> NDArray[np.float32]:
        return self.base[start:stop] * self.factor[start:stop]


def in_order(array: NDArray[Any]) -> NDArray[Any]:
    """Returns ``array`` in C order: itself, or a copy. A transposed matrix is copied 3 times as fast as by NumPy."""
    if array.ndim != 2 or array.flags.c_contiguous:
        return np.ascontiguousarray(array)
    ordered = np.empty(array.shape, array.dtype)
    for start in range(0, array.shape[1], _COLUMNS):
        part = slice(start, start + _COLUMNS)
        ordered[:, part] = array[:, part]
    return ordered
