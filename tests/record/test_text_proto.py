"""The record file: both layouts, exact floats, checks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.errors import RecordError
from hotwheels.amct_pytorch.record import ActivationRecord, LayerRecord, Record, WeightRecord
from hotwheels.amct_pytorch.record.text_proto import from_text, read_record, to_text, write_record

# The sample of HiSilicon's AMCT manual, chapter "Format of the record of quantization factors"
# [量化因子记录文件格式说明]: a legacy layer and a non-uniform one with an abbreviated codebook.
MANUAL = """
record {
  key: "conv1"
  value {
    scale_d: 0.0798481479
    offset_d: 1
    scale_w: 0.00297622895
    offset_w: 0
    shift_bit: 1
    skip_fusion: true
  }
}
record {
  key: "fc"
  value {
    record_d {
      scale_d: 0.016266866
      offset_d: -128
      index: 0
      num_bits_d: 8
    }
    scale_w: 0.00089841383
    offset_w: 0
    num_bits_w: 4
    params: -85
    params: -59
    params: -45
    centroids: -0.65496659
    centroids: -0.45462388
    centroids: -0.34674704
    weight_clip_max: 3.6236975
  }
}
"""


def f32(value: float) -> float:
    return float(np.float32(value))


def one(**fields: str) -> str:
    """A record of the layer ``conv`` with some fields of a good one replaced; '' takes a field out."""
    good = {
        "record_d": "record_d { scale_d: 0.5 offset_d: 0 index: 0 }",
        "scale_w": "scale_w: 0.25",
        "offset_w": "offset_w: 0",
        "more": "",
    }
    return f'record {{\n  key: "conv"\n  value {{\n{chr(10).join((good | fields).values())}\n  }}\n}}'


def test_manual_sample_is_read() -> None:
    record = from_text(MANUAL, "record.txt")
    assert record == Record(
        {
            "conv1": LayerRecord(
                activations=(ActivationRecord(index=0, scale=f32(0.0798481479), offset=1),),
                weight=WeightRecord(scale=(f32(0.00297622895),)),
                shift_bit=(1,),
                skip_fusion=True,
            ),
            "fc": LayerRecord(
                activations=(ActivationRecord(index=0, scale=f32(0.016266866), offset=-128),),
                weight=WeightRecord(
                    scale=(f32(0.00089841383),),
                    num_bits=4,
                    codebook=(-85, -59, -45),
                    centroids=(f32(-0.65496659), f32(-0.45462388), f32(-0.34674704)),
                    clip_max=f32(3.6236975),
                ),
            ),
        }
    )


def test_legacy_layout_is_written_in_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "record.txt"
    record = from_text(MANUAL, "record.txt")
    write_record(record, path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith('record {\n  key: "conv1"\n  value {\n    record_d {\n      scale_d: 0.0798481479\n')
    assert "num_bits_d: 8" in text
    assert text.count("skip_fusion") == 1
    assert read_record(path) == record
    assert [one.name for one in path.parent.iterdir()] == ["record.txt"]  # no temporary file stays


positive = st.floats(min_value=2.0**-126, max_value=2.0**100, width=32)
names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)


@st.composite
def layers(draw: st.DrawFn) -> LayerRecord:
    bits = draw(st.sampled_from((4, *range(8, 17))))
    count = draw(st.integers(0, 3))
    offset = st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)
    activations = tuple(
        ActivationRecord(index=index, scale=draw(positive), offset=draw(offset), num_bits=bits)
        for index in range(count)
    )
    weight = None
    if draw(st.booleans()):
        weight = WeightRecord(
            scale=tuple(draw(st.lists(positive, min_size=1, max_size=4))),
            num_bits=draw(st.sampled_from((4, 8))),
            codebook=tuple(draw(st.lists(st.integers(-128, 127), max_size=16))),
            centroids=tuple(draw(st.lists(st.floats(-1, 1, width=32), max_size=16))),
            clip_max=draw(st.none() | positive),
        )
    channels = len(weight.scale) if weight else 1
    shifts = draw(st.sampled_from((0, 1, channels)))
    shift_bit = tuple(draw(st.lists(st.integers(1, 16), min_size=shifts, max_size=shifts)))
    return LayerRecord(activations=activations, weight=weight, shift_bit=shift_bit, skip_fusion=draw(st.booleans()))


@given(st.dictionaries(names, layers(), max_size=3))
@settings(max_examples=60, deadline=None)
def test_written_record_is_read_back_equal(found: dict[str, LayerRecord]) -> None:
    record = Record(found)
    again = from_text(to_text(record), "record.txt")
    assert again == record
    assert list(again.layers) == list(found)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(MANUAL)))
    end = data.draw(st.integers(start, len(MANUAL)))
    inserted = data.draw(st.text(max_size=3) | st.sampled_from(("{", "}", "-", "1e99", "nan", "inf", "9" * 40, '"\\')))
    try:
        from_text(MANUAL[:start] + inserted + MANUAL[end:], "record.txt")
    except RecordError as error:
        assert "record.txt" in str(error)


def test_repeated_key_the_last_one_counts(log_lines) -> None:
    record = from_text(one() + one(record_d="record_d { scale_d: 2 offset_d: 3 index: 0 }"), "record.txt")
    assert record.layers["conv"].activations[0].scale == 2.0
    assert log_lines.warnings == ["Layer 'conv' is recorded more than once in record.txt; the last record counts."]


def test_repeated_optional_field_the_last_one_counts() -> None:
    record = from_text(one(more="num_bits_w: 4 num_bits_w: 8"), "record.txt")
    assert record.layers["conv"].weight.num_bits == 8


def test_shift_bit_of_zeros_is_no_shift() -> None:
    assert from_text(one(more="shift_bit: 0"), "record.txt").layers["conv"].shift_bit == ()


def test_inputs_are_sorted_by_index() -> None:
    both = "record_d { scale_d: 1 offset_d: 0 index: 1 } record_d { scale_d: 2 offset_d: 0 index: 0 }"
    record = from_text(one(record_d=both), "record.txt")
    assert [one.index for one in record.layers["conv"].activations] == [0, 1]


def test_flat_fields_beside_the_same_input_are_ignored(log_lines) -> None:
    record = from_text(one(more="scale_d: 7 offset_d: 1"), "record.txt")
    assert record.layers["conv"].activations == (ActivationRecord(index=0, scale=0.5, offset=0),)
    assert log_lines.warnings == ["Layer 'conv' in record.txt has scale_d beside record_d; record_d counts."]


WRONG = {
    "zero scale_d": (
        one(record_d="record_d { scale_d: 0 offset_d: 0 index: 0 }"),
        "index 0: scale_d is 0.0; it must be",
    ),
    "infinite scale_w": (one(scale_w="scale_w: inf"), "scale_w is inf; it must be positive and finite"),
    "tiny scale_w": (one(scale_w="scale_w: 1e-60"), "scale_w is 0.0"),
    "offset": (
        one(record_d="record_d { scale_d: 1 offset_d: 128 index: 0 }"),
        "offset_d is 128; with 8 bits allowed: -128",
    ),
    "12-bit offset": (
        one(record_d="record_d { scale_d: 1 offset_d: -2049 index: 0 num_bits_d: 12 }"),
        "offset_d is -2049; with 12 bits allowed: -2048 to 2047",
    ),
    "bits": (
        one(record_d="record_d { scale_d: 1 offset_d: 0 index: 0 num_bits_d: 7 }"),
        "num_bits_d is 7; allowed: 4, 8",
    ),
    "weight bits": (one(more="num_bits_w: 16"), "num_bits_w is 16; allowed: 4, 8"),
    "offset_w": (one(offset_w="offset_w: 3"), "offset_w is [3]; weights have no offset, only 0 is allowed"),
    "offset_w length": (one(offset_w="offset_w: 0 offset_w: 0"), "offset_w has 2 values and scale_w has 1"),
    "shift range": (one(more="shift_bit: 17"), "shift_bit is [17]; allowed: all 0, or each from 1 to 16"),
    "shift mix": (one(scale_w="scale_w: 1 scale_w: 1", offset_w="", more="shift_bit: [0, 3]"), "shift_bit is [0, 3]"),
    "shift length": (one(more="shift_bit: [1, 2]"), "shift_bit has 2 values; allowed: 1, or one per scale_w (1)"),
    "params": (one(more="params: 128"), "params has 128; allowed: -128 to 127"),
    "17 params": (one(more="params: 1 " * 17), "params has 17 values; allowed: at most 16"),
    "params alone": (one(scale_w="", offset_w="", more="params: 1"), "params is given without scale_w"),
    "flat offset alone": (one(more="offset_d: 1"), "offset_d is given without scale_d"),
    "same index twice": (one(more="record_d { scale_d: 1 offset_d: 0 index: 0 }"), "the same index more than once"),
    "required field": (
        one(record_d="record_d { scale_d: 1 index: 0 }"),
        "'record[0].value.record_d[0].offset_d' is missing",
    ),
    "no key": ("record { value { scale_w: 1 } }", "Record 0 of record.txt has no key"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_impossible_value_names_layer_and_field(text: str, message: str) -> None:
    with pytest.raises(RecordError) as raised:
        from_text(text, "record.txt")
    assert message in str(raised.value)
    assert "record.txt" in str(raised.value)
    if "key" in text:
        assert "conv" in str(raised.value) or "record[0]" in str(raised.value)


def test_file_that_does_not_parse_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "record.txt"
    path.write_text('record {\n  key: "a"\n  vale {\n', encoding="utf-8")
    with pytest.raises(RecordError, match=r"record\.txt, line 3: .* has no field named \"vale\"\."):
        read_record(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Record file '.*none\.txt' does not exist\."):
        read_record(tmp_path / "none.txt")


def test_impossible_record_is_not_written(tmp_path: Path) -> None:
    record = Record({"conv": LayerRecord(weight=WeightRecord(scale=(float("nan"),)))})
    with pytest.raises(RecordError, match=r"Layer 'conv' in the record to be written: scale_w is nan"):
        write_record(record, tmp_path / "record.txt")
    assert not list(tmp_path.iterdir())
