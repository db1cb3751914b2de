"""Limits of readers: what is beyond is refused at once, what is within takes time that grows with the text only."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hotwheels.amct_pytorch.config.dynamic.simple_cfg import read_simple_calibration
from hotwheels.amct_pytorch.config.files.om_json import read_om_json
from hotwheels.amct_pytorch.config.fx.expand import expand
from hotwheels.amct_pytorch.config.fx.json_config import read_config
from hotwheels.amct_pytorch.config.fx.simple_yaml import read_simple_yaml
from hotwheels.amct_pytorch.errors import AmctError, ConfigError, RecordError
from hotwheels.amct_pytorch.files import limits
from hotwheels.amct_pytorch.files.limits import Limit
from hotwheels.amct_pytorch.record.text_proto import read_record
from tests.support.graphs import small_net

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
LIMITS = {name: one for name, one in vars(limits).items() if isinstance(one, Limit)}


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_every_limit_is_on_the_page(limit: Limit) -> None:
    assert f"| {limit.what.rstrip(',')} | {limit.most:,} {limit.unit} |" in PAGE


def read_yaml(path: Path) -> object:
    return expand(small_net(), read_simple_yaml(path))


def read_json(path: Path) -> object:
    return read_config(path, small_net())


def laughs(kind: str) -> str:
    lines = ["a: &a {k: 1}" if kind == "merge" else "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for one, other in zip("abcdefgh", "bcdefghi", strict=True):
        nine = ", ".join([f"*{one}"] * 9)
        lines.append(f"{other}: &{other} {{<<: [{nine}]}}" if kind == "merge" else f"{other}: &{other} [{nine}]")
    return "\n".join([*lines, "skip_layers: *i"])


def record_of(lines: int) -> str:
    return 'record {\n  key: "a"\n  value {\n' + "    scale_w: 1.5\n" * lines + "  }\n}\n"


REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "yaml of 20 MB": (read_yaml, "skip_layers: [" + "a" * 20_000_000 + "]", "20,000,015 bytes; a simple conf"),
    "yaml aliases": (read_yaml, laughs("alias"), "characters; a simple configuration with its aliases written out"),
    "yaml merge keys": (read_yaml, laughs("merge"), "characters; a simple configuration with its aliases written out"),
    "yaml alias of itself": (
        read_yaml,
        "skip_layers: &a [*a]",
        "line 1, column 14: an alias is inside the node that it",
    ),
    "yaml number": (read_yaml, "a: 1" + ":1" * 100_000, "200,001 characters; a number in a simple configuration"),
    "yaml nested": (read_yaml, "a: " + "[" * 5_000, "101 levels of nesting; YAML may have"),
    "yaml nested blocks": (read_yaml, "a:\n" + "- " * 5_000, "101 levels of nesting; YAML may have"),
    "json of 20 MB": (read_json, '{"a": "' + "a" * 20_000_000 + '"}', "20,000,009 bytes; a config.json"),
    "tolerant json": (read_json, '{"a": "' + "a" * 5_000_000 + '",}', "5,000,010 bytes; JSON with comments"),
    "json nested": (read_json, '{"a": ' + "[" * 101 + "]" * 101 + "}", "more than 100 levels of nesting"),
    "json number": (read_json, "1" * 100_000, "integer"),
    "om.json": (read_om_json, " " * (17 << 20), "bytes; an om.json may have"),
    "cfg": (read_simple_calibration, 'skip_layers: "a"\n' * 20_000, "340,000 bytes; a simple configuration"),
    "record on one line": (read_record, 'record{key:"a" value{scale_w:1}}' * 40_000, "not written one field a line"),
    "record of 70 MB": (read_record, " " * (65 << 20), "bytes; a record or parameter file as text"),
}


@pytest.mark.parametrize(("read", "text", "message"), REFUSED.values(), ids=REFUSED)
def test_bombs_are_refused_at_once(read: Callable[[Path], object], text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "given"
    path.write_text(text, encoding="utf-8")
    start = time.process_time()
    with pytest.raises(AmctError) as raised:
        read(path)
    assert time.process_time() - start < 5
    assert message in str(raised.value)
    assert "given" in str(raised.value)
    assert len(str(raised.value)) < 1_000


LINEAR: dict[str, tuple[Callable[[Path], object], Callable[[int], str], int]] = {
    "json without commas": (read_json, lambda n: "{" + " ".join(f'"a{one}": {{}}' for one in range(n)) + "}", 20_000),
    "yaml with unknown keys": (read_yaml, lambda n: "".join(f"key{one}: 1\n" for one in range(n)), 2_000),
    "yaml with one key": (read_yaml, lambda n: "a: 1\n" * n, 4_000),
    "yaml with unknown layers": (read_yaml, lambda n: f"skip_layers: [{', '.join('xy' for _ in range(n))}]", 4_000),
    "record": (read_record, record_of, 40_000),
}


@pytest.mark.parametrize(("read", "text_of", "size"), LINEAR.values(), ids=LINEAR)
def test_time_is_linear(
    read: Callable[[Path], object], text_of: Callable[[int], str], size: int, tmp_path: Path
) -> None:
    def seconds(count: int) -> float:
        path = tmp_path / "given"
        path.write_text(text_of(count), encoding="utf-8")
        gc.collect()
        start = time.process_time()
        try:
            read(path)
        except AmctError as error:
            assert "is not in the model" in str(error) or "scale_w" in str(error)  # the layer a0
        return time.process_time() - start

    seconds(10)
    few, many = (min(seconds(count) for _ in range(2)) for count in (size, 4 * size))
    assert many < 12 * max(few, 0.02)  # 4, and the noise of a busy machine; 16 if quadratic


def test_a_million_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "record.txt"
    path.write_text("# by hand\n" + record_of(1_000_000), encoding="utf-8")
    start = time.process_time()
    assert len(read_record(path).layers["a"].weight.scale) == 1_000_000
    assert time.process_time() - start < 10


def test_ten_warnings_of_a_kind(tmp_path: Path, log_lines) -> None:
    (tmp_path / "a.yaml").write_text(f"skip_layers: {[f'no{one}' for one in range(30)]}")
    read_yaml(tmp_path / "a.yaml")
    assert len(log_lines.warnings) == 11
    assert log_lines.warnings[-1] == "20 more names like 'no29' match nothing."


def test_errors_do_not_grow_with_the_value(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"common_config: {list(range(10_000))}")
    with pytest.raises(ConfigError) as raised:
        read_yaml(tmp_path / "a.yaml")
    assert len(str(raised.value)) < 300


def test_limit_holds_for_files_without_a_size() -> None:
    with pytest.raises(RecordError, match=r"a parameter file may have at most 4 \(files/limits\.py\)"):
        limits.read_limited(Path("/proc/self/status"), Limit(what="a parameter file", most=4), RecordError)
