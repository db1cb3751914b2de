"""A constant that is computed while it is written has the same bytes as a constant computed before."""

from __future__ import annotations

import io

import numpy as np
import onnx_ir as ir
import pytest

from hotwheels.amct_pytorch.onnx_io import rows_tensor
from hotwheels.amct_pytorch.onnx_io.rows_tensor import RowsTensor, ScaledTensor, in_order

ARRAY = np.random.default_rng(0).integers(-8, 8, (7, 3, 2)).astype(np.int8)


@pytest.mark.parametrize("chunk", [1, 64, 1 << 24])
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.INT4])
def test_bytes(dtype: ir.DataType, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_tensor, "_CHUNK", chunk)
    tensor = RowsTensor(lambda start, stop: ARRAY[start:stop], dtype, ARRAY.shape, "weight")
    wanted = ir.Tensor(ARRAY.astype(dtype.numpy()), dtype=dtype)
    file = io.BytesIO()
    tensor.tofile(file)
    assert file.getvalue() == tensor.tobytes() == wanted.tobytes()
    assert (tensor.nbytes, tensor.dtype, tuple(tensor.shape)) == (wanted.nbytes, dtype, ARRAY.shape)
    assert np.array_equal(tensor.numpy(), wanted.numpy())


def test_few_rows_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def rows(start: int, stop: int) -> np.ndarray:
        asked.append((start, stop))
        return ARRAY[start:stop]

    monkeypatch.setattr(rows_tensor, "_CHUNK", 50)  # two rows of 24 bytes
    RowsTensor(rows, ir.DataType.FLOAT, ARRAY.shape).tofile(io.BytesIO())
    assert asked == [(0, 2), (2, 4), (4, 6), (6, 7)]


def test_memory_that_is_transposed() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    tensor = RowsTensor(lambda start, stop: array[start:stop], ir.DataType.FLOAT, array.shape)
    assert tensor.tobytes() == np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("shape", [(3, 700), (700, 3), (1, 1), (0, 4)])
def test_a_transposed_matrix_in_order(shape: tuple[int, int]) -> None:
    array = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape).T
    assert in_order(array).flags.c_contiguous
    assert np.array_equal(in_order(array), array)


def test_a_scaled_tensor_is_the_product() -> None:
    factor = np.linspace(-2, 3, len(ARRAY), dtype=np.float32).reshape(-1, *[1] * (ARRAY.ndim - 1))
    base = ARRAY.astype(np.float32)
    tensor = ScaledTensor(base, factor, "weight")
    file = io.BytesIO()
    tensor.tofile(file)
    assert file.getvalue() == (base * factor).tobytes()
    np.testing.assert_array_equal(tensor.numpy(), base * factor)
    np.testing.assert_array_equal(tensor[1:3], (base * factor)[1:3])
    assert tensor.base is base
