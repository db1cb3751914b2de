"""Checked paths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.files import check_distinct, check_input_file, check_path


def test_path_argument_is_str_or_path_like(tmp_path: Path) -> None:
    assert check_path("f", "config_file", str(tmp_path)) == check_path("f", "config_file", tmp_path) == tmp_path


@pytest.mark.parametrize(("value", "found"), [(3, "int"), (None, "NoneType"), (b"x", "bytes")])
def test_other_argument_is_a_type_error(value: object, found: str) -> None:
    message = rf"^f\(\): argument 'config_file' must be a path \(str or os\.PathLike\), not {found}\.$"
    with pytest.raises(TypeError, match=message):
        check_path("f", "config_file", value)


def test_missing_input_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^Record file '.*none' does not exist\.$"):
        check_input_file(tmp_path / "none", "Record file")
    with pytest.raises(FileNotFoundError, match=r"^Record file '.*' is a folder\.$"):
        check_input_file(tmp_path, "Record file")


def test_null_character_is_refused() -> None:
    with pytest.raises(amct.ConfigError, match=r"^f\(\): argument 'p' is 'a.x00b'; a path cannot"):
        check_path("f", "p", "a\0b")


def test_one_file_for_two_arguments_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("a")
    check_distinct("f", one=tmp_path / "a", two=tmp_path / "b", three=None, four=None)
    with pytest.raises(amct.ConfigError, match=r"^f\(\): arguments 'one' and 'two' are the same file, '.*link'"):
        check_distinct("f", one=tmp_path / "a", two=tmp_path / "link")


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()


X = torch.linspace(-1, 1, 3 * 6 * 6).reshape(1, 3, 6, 6)


def test_relative_paths_are_those_of_the_call(net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script changes its folder before the forward that writes."""
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    amct.create_quant_config("c.json", net, X)
    quantized = amct.quantize_model("c.json", "m.onnx", "r.txt", net, X)
    amct.create_quant_retrain_config("t.json", net, X)
    trained = amct.create_quant_retrain_model("t.json", net, "t.txt", X).eval()
    amct.create_quant_config_fx("f.json", net)
    graph = amct.create_quant_model_fx("f.json", net)
    amct.enable_dump(graph, "dump")
    monkeypatch.chdir("other")
    with torch.no_grad():
        quantized(X), trained(X), trained(X), graph(X)
    assert not any((tmp_path / "other").rglob("*.txt")) and not (tmp_path / "other" / "dump").exists()
    assert all("scale_d" in (tmp_path / name).read_text() for name in ("r.txt", "t.txt"))
    assert any((tmp_path / "dump").iterdir())


def test_save_does_not_replace_what_it_reads(net: nn.Module, tmp_path: Path) -> None:
    amct.create_quant_config(tmp_path / "c.json", net, X)
    model = tmp_path / "p_deploy_model.onnx"
    amct.quantize_model(tmp_path / "c.json", model, tmp_path / "r.txt", net, X)(X)
    before = model.read_bytes()
    with pytest.raises(FileExistsError, match=r"The save reads this file.*take another save_path.*p_deploy_model"):
        amct.save_model(model, tmp_path / "r.txt", tmp_path / "p")
    assert model.read_bytes() == before


def test_record_with_a_byte_order_mark_is_read(net: nn.Module, tmp_path: Path) -> None:
    """Editors of Windows write one."""
    amct.create_quant_config(tmp_path / "c.json", net, X)
    record = tmp_path / "r.txt"
    amct.quantize_model(tmp_path / "c.json", tmp_path / "m.onnx", record, net, X)(X)
    record.write_bytes(b"\xef\xbb\xbf" + record.read_bytes().replace(b"\n", b"\r\n"))
    amct.save_model(tmp_path / "m.onnx", record, tmp_path / "out")
