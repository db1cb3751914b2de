"""Seal: files of two saves, and files that were changed, are found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from hotwheels.amct_pytorch.errors import RecordError
from hotwheels.amct_pytorch.files import output_path
from hotwheels.amct_pytorch.files.marks import KEY, read_mark, without_mark
from hotwheels.amct_pytorch.files.seal import (
    DEPLOY_MODEL,
    FAKE_QUANT_MODEL,
    GOLDEN,
    MANIFEST,
    PARAMETERS_BINARY,
    PARAMETERS_TEXT,
    check_prefix,
    check_together,
    check_whole,
    sealed_set,
)

NAMES = (DEPLOY_MODEL, FAKE_QUANT_MODEL, PARAMETERS_TEXT, PARAMETERS_BINARY, GOLDEN)


def model(name: str) -> bytes:
    graph = onnx.helper.make_graph([], name, [], [])
    proto = onnx.helper.make_model(graph)
    proto.metadata_props.add(key="amct.deploy.v1", value="{}")
    return proto.SerializeToString()


def save(prefix: Path | str, run: str, names: tuple[str, ...] = NAMES) -> None:
    """Writes a small file of each kind."""
    with sealed_set(prefix) as files:
        for name in names:
            content = model(run) if name.endswith(".onnx") else f"of {run}\n".encode()
            files.write_bytes(output_path(prefix, name), content)


def test_a_whole_set_passes(tmp_path: Path) -> None:
    save(tmp_path / "net", "run 1")
    check_prefix(tmp_path / "net")
    check_together({name: tmp_path / f"net_{name}" for name in (DEPLOY_MODEL, PARAMETERS_BINARY)})


def test_a_mark_leaves_the_content_as_it_is_for_every_other_reader(tmp_path: Path) -> None:
    save(tmp_path / "net", "run 1")
    read = onnx.load(tmp_path / f"net_{DEPLOY_MODEL}")
    assert [entry.key for entry in read.metadata_props] == ["amct.deploy.v1", KEY]
    del read.metadata_props[-1]
    assert read.SerializeToString() == model("run 1")
    text = (tmp_path / f"net_{PARAMETERS_TEXT}").read_text()
    assert without_mark(text) == "of run 1\n"
    assert [line[0] for line in text.splitlines()] == ["o", "#"]
    assert (tmp_path / f"net_{GOLDEN}").read_text() == "of run 1\n"


def test_every_mark_and_the_manifest_hold_the_digests_of_all(tmp_path: Path) -> None:
    save(tmp_path / "net", "run 1")
    digests = json.loads((tmp_path / f"net_{MANIFEST}").read_text())["files"]
    assert sorted(digests) == sorted(NAMES)
    for name in (DEPLOY_MODEL, FAKE_QUANT_MODEL, PARAMETERS_TEXT):
        assert read_mark(tmp_path / f"net_{name}")[1] == digests
    assert read_mark(tmp_path / f"net_{GOLDEN}")[1] is None


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a" / "net", "run")
    save(tmp_path / "b" / "net", "run")
    for one in (tmp_path / "a").iterdir():
        assert one.read_bytes() == (tmp_path / "b" / one.name).read_bytes()


@pytest.mark.parametrize("odd", [*NAMES, MANIFEST])
def test_one_file_of_another_save_is_named(tmp_path: Path, odd: str) -> None:
    save(tmp_path / "net", "run 1")
    save(tmp_path / "other" / "net", "run 2")
    shutil.copy(tmp_path / "other" / f"net_{odd}", tmp_path)
    with pytest.raises(RecordError, match=rf"net_{odd}' is of another save, unlike '{tmp_path}/net_") as caught:
        check_prefix(tmp_path / "net")
    assert str(caught.value).count(f"net_{odd}") == 1


def test_a_pair_of_two_saves_is_refused_wherever_the_files_are(tmp_path: Path) -> None:
    save(tmp_path / "a" / "net", "run 1")
    save(tmp_path / "b" / "net", "run 2")
    for name in (PARAMETERS_TEXT, PARAMETERS_BINARY):
        params = shutil.copy(tmp_path / "b" / f"net_{name}", tmp_path / f"any.{name[-3:]}")
        with pytest.raises(RecordError, match="any"):
            check_together({DEPLOY_MODEL: tmp_path / "a" / f"net_{DEPLOY_MODEL}", name: params})


def flip(data: bytes) -> bytes:
    return data[:5] + bytes([data[5] ^ 1]) + data[6:]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", [flip, cut, empty])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    save(tmp_path / "net", "run 1")
    path = tmp_path / f"net_{name}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RecordError, match=rf"'{path}'"):
        check_prefix(tmp_path / "net")


def test_a_file_that_an_earlier_save_left_is_of_another_save(tmp_path: Path) -> None:
    save(tmp_path / "net", "run 1")
    save(tmp_path / "net", "run 2", NAMES[:-1])
    with pytest.raises(RecordError, match=rf"net_{GOLDEN}' is of another save"):
        check_prefix(tmp_path / "net")


def test_files_without_marks_pass(tmp_path: Path) -> None:
    (tmp_path / f"net_{DEPLOY_MODEL}").write_bytes(model("by hand"))
    (tmp_path / f"net_{PARAMETERS_TEXT}").write_text("of any origin")
    check_prefix(tmp_path / "net")


def test_renamed_and_copied_together_they_stay_a_set(tmp_path: Path) -> None:
    save(tmp_path / "net", "run 1")
    for name in (*NAMES, MANIFEST):
        (tmp_path / f"net_{name}").rename(tmp_path / f"board_{name}")
    check_prefix(tmp_path / "board")


def test_without_the_manifest_the_marks_are_enough(tmp_path: Path) -> None:
    save(tmp_path / "net", "run 1")
    (tmp_path / f"net_{MANIFEST}").unlink()
    (tmp_path / f"net_{PARAMETERS_BINARY}").write_bytes(b"of run 2\n")
    with pytest.raises(RecordError, match=PARAMETERS_BINARY):
        check_prefix(tmp_path / "net")


def test_files_of_the_manifest_that_are_missing_are_named(tmp_path: Path) -> None:
    save(tmp_path / "net", "run 1")
    check_whole(tmp_path / "net")
    gone = [tmp_path / f"net_{name}" for name in (PARAMETERS_TEXT, PARAMETERS_BINARY)]
    for path in gone:
        path.unlink()
    check_prefix(tmp_path / "net")
    with pytest.raises(RecordError, match=f"'{gone[0]}', '{gone[1]}': missing, but listed"):
        check_whole(tmp_path / "net")
    (tmp_path / f"net_{MANIFEST}").unlink()
    check_whole(tmp_path / "net")


def test_a_folder_of_bare_names_is_a_set_too(tmp_path: Path) -> None:
    save(f"{tmp_path}/", "run 1")
    assert (tmp_path / MANIFEST).is_file()
    check_prefix(f"{tmp_path}/")
    (tmp_path / GOLDEN).write_text("other")
    with pytest.raises(RecordError, match=GOLDEN):
        check_prefix(f"{tmp_path}/")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', "[" * 100_000], ids=["", "{", "[]", "3", "deep"])
def test_a_manifest_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    save(tmp_path / "net", "run 1")
    (tmp_path / f"net_{MANIFEST}").write_text(text)
    with pytest.raises(RecordError, match=f"net_{MANIFEST}' is not a manifest of saved files"):
        check_prefix(tmp_path / "net")


def test_names_in_a_mark_lead_to_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    save(tmp_path / "net", "run 1")
    path = tmp_path / f"net_{MANIFEST}"
    path.write_text(path.read_text().replace('"golden.npz"', '"/../secret"'))
    with pytest.raises(RecordError, match=f"net_{MANIFEST}' is of another save"):
        check_prefix(tmp_path / "net")
