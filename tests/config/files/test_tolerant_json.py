"""JSON with the usual deviations of hand-written files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotwheels.amct_pytorch.config.files.tolerant_json import dump_json, parse_json, read_json
from hotwheels.amct_pytorch.errors import ConfigError

MANUAL = (Path(__file__).parents[1] / "data" / "manual_config.json").read_text(encoding="utf-8")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(values, st.sampled_from((None, 0, 2)))
@settings(max_examples=200, deadline=None)
def test_strict_json_is_read_like_the_json_module(value: object, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    assert parse_json(text, "x.json") == json.loads(text)


@given(st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), st.integers() | st.text(), max_size=4))
@settings(max_examples=50, deadline=None)
def test_written_json_is_strict(value: dict[str, object]) -> None:
    assert json.loads(dump_json(value)) == parse_json(dump_json(value), "x.json") == value


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_json_is_read_or_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(MANUAL)))
    end = data.draw(st.integers(start, min(len(MANUAL), start + 40)))
    inserted = data.draw(
        st.text(max_size=3) | st.sampled_from(("{", "]", ",,", '"', "//", "#", "1e999", "\\", "9" * 5000))
    )
    try:
        parse_json(MANUAL[:start] + inserted + MANUAL[end:], "x.json")
    except ConfigError as error:
        assert str(error).startswith("x.json, line ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1, // one\n "b": [1, 2,], # two\n}', {"a": 1, "b": [1, 2]}),
        ("# first\n// second\n{}// last", {}),
        ('{"a": "// no # comment"}', {"a": "// no # comment"}),
        ('{"url": "http://x", }', {"url": "http://x"}),
        ("[]", []),
        ("[1,]", [1]),
        ("-1.5e-3", -0.0015),
    ],
)
def test_comments_and_trailing_commas(text: str, expected: object, log_lines) -> None:
    assert parse_json(text, "x.json") == expected
    assert not log_lines.warnings


@pytest.mark.parametrize(
    ("text", "expected", "column"),
    [
        ('{"a": false\n "b": 0}', {"a": False, "b": 0}, 12),
        ('{"a": {"c": 1} "b": 0}', {"a": {"c": 1}, "b": 0}, 15),
        ('{"a": 1"b": 0}', {"a": 1, "b": 0}, 8),
        ("[{} {}]", [{}, {}], 4),
    ],
)
def test_missing_comma_is_a_warning(text: str, expected: object, column: int, log_lines) -> None:
    assert parse_json(text, "x.json") == expected
    text = "a comma is missing; the text is read as if it were there."
    assert log_lines.warnings == [f"x.json, line 1, column {column}: {text}"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: a value is expected."),
        ('{"a": 1,\n "a": 2}', "line 2, column 2: key 'a' occurs twice in the same object."),
        ('{"x": {"a": 1, "a": 1}}', "line 1, column 16: key 'a' occurs twice"),
        ('{"a" 1}', "line 1, column 6: ':' is expected."),
        ("{a: 1}", "line 1, column 2: a key in double quotes is expected."),
        ('{"a": }', "line 1, column 7: a value is expected."),
        ('{"a": 1', "line 1, column 8: ',' or '}' is expected."),
        ("[1-2]", "line 1, column 3: ',' or ']' is expected."),
        ("[,]", "line 1, column 2: a value is expected."),
        ('{"a": tru}', "line 1, column 7: expecting value."),
        ('\n{"a": "b', "line 2, column 7: unterminated string starting at."),
        ("{} {}", "line 1, column 4: there is more text behind the end of the document."),
        ("[" * 1000, "line 1, column 101: more than 100 levels of nesting."),
        ("/* no */ {}", "line 1, column 1: a value is expected."),
    ],
)
def test_error_names_line_and_column(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_json(text, "x.json")
    assert str(raised.value).startswith(f"x.json, {message}")


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert read_json(path) == {}


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"\xb5": 1}')
    with pytest.raises(ConfigError, match=r"Configuration file '.*x\.json' is not a UTF-8 text"):
        read_json(path)


def test_output_is_readable() -> None:
    assert dump_json({"层": [1, True]}) == '{\n    "层": [\n        1,\n        true\n    ]\n}\n'
