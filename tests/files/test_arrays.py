"""Headers of .npy and .npz files are compared with what follows them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hotwheels.amct_pytorch.errors import ConfigError, RecordError
from hotwheels.amct_pytorch.files.arrays import read_npy, read_npz
from hotwheels.amct_pytorch.files.limits import Limit

LIMIT = Limit(what="a test", most=1 << 20)


def saved(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def claiming(shape: object, descr: str = "<f4", content: bytes = b"\0" * 16) -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


ARRAYS = [
    np.arange(6, dtype=np.int16).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(3.5, dtype=np.float32),
    np.zeros((0, 4), dtype=np.uint8),
    np.arange(3, dtype=">f4"),
    np.array([True, False]),
]


@pytest.mark.parametrize("array", ARRAYS)
def test_arrays_are_read_as_numpy_reads_them(array: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(saved(array))
    np.savez_compressed(tmp_path / "x.npz", one=array)
    for found in (read_npy(tmp_path / "x.npy"), read_npz(tmp_path / "x.npz", "test file", RecordError, LIMIT)["one"]):
        assert found.shape == array.shape
        assert found.dtype == array.dtype.newbyteorder("=")
        assert np.array_equal(found, array)
        found += found.dtype.type(0) if found.dtype != bool else False  # it can be written to


DAMAGED = {
    "empty": b"",
    "text": b"1 2 3",
    "half a header": saved(ARRAYS[0])[:40],
    "half": saved(ARRAYS[0])[:-3],
    "more behind it": saved(ARRAYS[0]) + b"x",
    "12 GB of 16 bytes": claiming((3 << 30,)),
    "product beyond 64 bits": claiming((1 << 40, 1 << 40)),
    "negative": claiming((-4,)),
    "negative twice": claiming((-2, -2)),
    "no tuple": claiming(4),
    "bool": claiming((True, "x")),
    "objects": saved(np.array([{}, None], dtype=object)),
    "text elements": saved(np.array(["abc"])),
    "records": saved(np.zeros(2, dtype=[("a", "f4")])),
    "times": saved(np.zeros(2, dtype="datetime64[s]")),
    "unknown type": claiming((4,), "zz"),
    "header that is no literal": saved(ARRAYS[0])[:30] + b"(" + saved(ARRAYS[0])[31:],
    "nested header": b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"(" * 9000,
    "version 9": b"\x93NUMPY\x09\x00" + saved(ARRAYS[0])[8:],
}


def archive(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("one.npy", content)
    return file.getvalue()


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_arrays_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^Array file '.*x\.npy' is no \.npy file of numbers: .+"):
        read_npy(tmp_path / "x.npy")
    (tmp_path / "x.npz").write_bytes(archive(content))
    with pytest.raises(RecordError, match=r"^'.*x\.npz' is not a test file: .+"):
        read_npz(tmp_path / "x.npz", "test file", RecordError, LIMIT)


def _encrypted(content: bytes) -> bytes:
    return content.replace(b"PK\x03\x04\x14\x00\x00\x00", b"PK\x03\x04\x14\x00\x01\x00").replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"
    )


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "zip"),
    "text": (lambda: b"PK\x03\x04", "zip"),
    "half": (lambda: archive(saved(ARRAYS[0]))[:100], "zip"),
    "encrypted": (lambda: _encrypted(archive(saved(ARRAYS[0]))), "encrypted"),
    "bomb": (lambda: archive(b"\0" * (64 << 20)), "67,108,864 bytes; a test may have at most"),
}


@pytest.mark.parametrize(("make", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_damaged_archives_are_refused(make: Callable[[], bytes], message: str, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(make())
    with pytest.raises(RecordError, match=message) as raised:
        read_npz(tmp_path / "x.npz", "test file", RecordError, LIMIT)
    assert "x.npz" in str(raised.value)
