from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest

from hotwheels.amct_pytorch.oracle.golden_tensor import BLOCK, Difference, GoldenTensor, first_difference

SHAPE = (3, 5, 17, 9)  # 2295 elements: two blocks and a part of one


def integers(high: int = 100) -> np.ndarray:
    return np.random.default_rng(1).integers(-high, high, SHAPE, dtype=np.int32)


def test_a_digest_is_the_beginning_of_sha256_of_little_endian_int32() -> None:
    golden = GoldenTensor.of(np.array([[1, -2]], dtype=np.int32), keeps_values=False)
    assert golden.blocks.tobytes() == hashlib.sha256(struct.pack("<2i", 1, -2)).digest()[:8]
    assert GoldenTensor.of(integers(), keeps_values=False).blocks.shape == (3, 8)


@pytest.mark.parametrize(("high", "kept"), [(100, np.int8), (200, np.int16), (40_000, np.int32)])
def test_values_are_kept_in_the_smallest_type(high: int, kept: type) -> None:
    golden = GoldenTensor.of(integers(high), keeps_values=True)
    assert golden.values.dtype == kept
    assert first_difference(golden, integers(high)) is None


@pytest.mark.parametrize("places", [[0], [2294], [1023], [1024], [1500, 700, 2000], [2100, 3]])
def test_first_difference_is_located(places: list[int]) -> None:
    changed = integers().reshape(-1)
    changed[places] += 1000
    first = min(places)
    index = tuple(int(one) for one in np.unravel_index(first, SHAPE))
    expected = int(integers().reshape(-1)[first])
    for keeps_values in (True, False):
        found = first_difference(GoldenTensor.of(integers(), keeps_values=keeps_values), changed.reshape(SHAPE))
        if keeps_values:
            assert found == Difference(index=index, expected=expected, found=expected + 1000, count=len(places))
        else:
            start = first // BLOCK * BLOCK
            assert found.index == np.unravel_index(start, SHAPE)
            assert found.last == np.unravel_index(min(start + BLOCK, 2295) - 1, SHAPE)


def test_places_are_found_in_every_part_of_a_large_tensor() -> None:
    array = np.random.default_rng(2).integers(-100, 100, 200_001, dtype=np.int32)
    golden, changed = GoldenTensor.of(array, keeps_values=True), array.copy()
    assert golden.is_consistent and first_difference(golden, array) is None
    for block, digest in enumerate(golden.blocks):
        expected = hashlib.sha256(array[block * BLOCK : (block + 1) * BLOCK].astype("<i4").tobytes()).digest()[:8]
        assert digest.tobytes() == expected
    changed[[70_000, 200_000]] ^= 1
    found = first_difference(golden, changed)
    assert found is not None and (found.index, found.count) == ((70_000,), 2)


def test_values_of_another_kind_do_not_pass_for_equal() -> None:
    golden = GoldenTensor.of(np.ones(3, dtype=np.float32), keeps_values=True)
    assert first_difference(golden, np.ones(3, dtype=np.int32)) is not None


def test_layout_in_memory_does_not_count() -> None:
    golden = GoldenTensor.of(integers(), keeps_values=True)
    turned = np.ascontiguousarray(integers().transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert first_difference(golden, turned) is None


def test_floats_are_compared_bit_for_bit() -> None:
    array = np.array([0.0, np.nan, 1.0], dtype=np.float32)
    golden = GoldenTensor.of(array, keeps_values=True)
    assert first_difference(golden, array.copy()) is None
    assert first_difference(golden, np.array([0.0, np.nan, np.nextafter(np.float32(1), 2)], np.float32)).index == (2,)


@pytest.mark.parametrize("shape", [(), (0, 3), (1,)])
def test_small_shapes(shape: tuple[int, ...]) -> None:
    array = np.full(shape, 3, dtype=np.int32)
    golden = GoldenTensor.of(array, keeps_values=True)
    assert first_difference(golden, array) is None
    if array.size:
        assert first_difference(golden, array + 1).found == 4


def test_message_says_index_and_values() -> None:
    assert str(Difference(index=(1, 2), expected=-3, found=4, count=1)) == "at [1, 2]: expected -3, found 4"
    assert str(Difference(index=(1,), expected=0, found=4, count=9)).endswith("found 4, the first of 9 that differ")
