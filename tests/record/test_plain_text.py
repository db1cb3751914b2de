"""The quick reader has the same result as protobuf's parser, or leaves the text to that parser."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from hotwheels.amct_pytorch.proto import CalibrationParam, ScaleOffsetRecord
from hotwheels.amct_pytorch.record.plain_text import merge_plain_text
from hotwheels.amct_pytorch.record.print_text import print_text

RECORD = """record {
  key: "layer1.0.conv"
  value {
    record_d {
      scale_d: 0.1
      offset_d: -7
      index: 0
    }
    scale_w: 1e-05
    scale_w: 0.00171550433
    offset_w: 0
    offset_w: 0
    shift_bit: 3
    num_bits_w: 4
    num_bits_w: 8
    skip_fusion: true
    params: -127
  }
}
record {
  key: "fc"
  value {
  }
}
"""


def test_reads_what_we_print() -> None:
    message = ScaleOffsetRecord()
    assert merge_plain_text(RECORD, message)
    expected = text_format.Merge(RECORD, ScaleOffsetRecord())
    assert message == expected
    again = ScaleOffsetRecord()
    assert merge_plain_text(print_text(expected), again) and again == expected


PLAIN = {
    "comments and empty lines": '# of a call\n\nrecord {\n  # the first\n  key: "a"\n}\n\n',
    "escapes": 'record {\n  key: "a\\n\\303\\244\\\\\\""\n}\n',
    "no newline at the end": "record {\n}",
}


@pytest.mark.parametrize("text", PLAIN.values(), ids=PLAIN)
def test_reads_what_people_add(text: str) -> None:
    message = ScaleOffsetRecord()
    assert merge_plain_text(text, message)
    assert message == text_format.Merge(text, ScaleOffsetRecord())


def test_reads_the_enumerations_and_bytes_of_a_parameter_file() -> None:
    text = 'layer {\n  name: "a"\n  quant_param {\n    weight {\n      data_type: S4\n'
    text += '      scale: 2.5\n      params: "\\200\\001\\\\ab"\n    }\n  }\n}\n'
    message = CalibrationParam()
    assert merge_plain_text(text, message)
    assert message == text_format.Merge(text, CalibrationParam())
    assert not merge_plain_text(text.replace("S4", "S5"), CalibrationParam())


OTHERS = {
    "colon in front of a message": "record: {\n}\n",
    "bad escape": 'record {\n  key: "\\xff"\n}\n',
    "single quotes": "record {\n  key: 'a'\n}\n",
    "comment behind a field": "record { # comment\n}\n",
    "one line": 'record { key: "a" }',
    "unknown field": "recrod {\n}\n",
    "not closed": "record {\n",
    "closed twice": "record {\n}\n}\n",
    "text for a number": 'record {\n  value {\n    scale_w: "1"\n  }\n}\n',
    "number for a text": "record {\n  key: 1\n}\n",
    "no integer": "record {\n  value {\n    shift_bit: 1.5\n  }\n}\n",
    "out of range": "record {\n  value {\n    shift_bit: -1\n  }\n}\n",
    "list": "record {\n  value {\n    scale_w: [1, 2]\n  }\n}\n",
}


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS.keys())
def test_leaves_other_forms_to_protobuf(text: str) -> None:
    assert not merge_plain_text(text, ScaleOffsetRecord())
