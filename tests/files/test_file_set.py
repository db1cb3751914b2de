"""FileSet: all files are written or none, with any kind of existing target, and errors name the target."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hotwheels.amct_pytorch.files import FileSet, write_text_atomic


def write_all(folder: Path, text: str, names: tuple[str, ...] = ("a", "b", "c")) -> None:
    with FileSet() as files:
        for name in names:
            files.write_text(folder / name, text)


def contents(folder: Path) -> dict[str, str]:
    return {one.name: one.read_text() for one in folder.iterdir()}


def test_parents_are_made_and_content_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_text_atomic(path, "层")
    write_text_atomic(str(path), "new\n")
    assert path.read_bytes() == b"new\n"
    assert [one.name for one in path.parent.iterdir()] == ["c.txt"]


def test_nothing_is_in_place_before_the_end_of_the_block(tmp_path: Path) -> None:
    write_all(tmp_path, "old")
    with FileSet() as files:
        files.write_text(tmp_path / "a", "new")
        files.write_text(tmp_path / "b", "new")
        assert files.staged(tmp_path / "a").read_text() == "new"
        assert {name: (tmp_path / name).read_text() for name in "ab"} == {"a": "old", "b": "old"}
    assert contents(tmp_path) == {"a": "new", "b": "new", "c": "old"}


def test_an_error_in_the_block_leaves_all_old_files_and_nothing_else(tmp_path: Path) -> None:
    write_all(tmp_path, "old")
    with pytest.raises(KeyboardInterrupt), FileSet() as files:
        files.write_text(tmp_path / "a", "new")
        files.write_text(tmp_path / "made" / "inner" / "a", "new")
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"a": "old", "b": "old", "c": "old"}  # and no folder


def test_old_files_stay_open_until_all_new_ones_are_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path, "old")
    replace, open_files = os.replace, []

    def counting(*paths: Path) -> None:
        replace(*paths)
        open_files.append(sum(one.endswith("(deleted)") for one in _open_files(tmp_path)))

    monkeypatch.setattr(os, "replace", counting)
    write_all(tmp_path, "new")
    assert open_files == [1, 2, 3]
    assert _open_files(tmp_path) == []


def _open_files(folder: Path) -> list[str]:
    """Returns the process's open files in ``folder``."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    targets = [os.readlink(one) for one in links if os.path.lexists(one)]
    return [one for one in targets if one.startswith(str(folder))]


def test_the_mode_of_an_existing_file_is_kept_and_a_new_one_has_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_all(tmp_path, "old")
    os.chmod(tmp_path / "a", 0o604)
    write_all(tmp_path, "new")
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "b", "usual")}
    assert modes == {"a": 0o604, "b": modes["usual"], "usual": modes["usual"]}


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    write_text_atomic(tmp_path / "far" / "file", "old")
    (tmp_path / "link").symlink_to("far/file")
    (tmp_path / "dangling").symlink_to("far/new")
    with FileSet() as files:
        files.write_text(tmp_path / "link", "new")
        files.write_text(tmp_path / "dangling", "made")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "dangling").is_symlink()
    assert contents(tmp_path / "far") == {"file": "new", "new": "made"}


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/null")  # making a device takes root


@pytest.mark.parametrize(
    ("make", "kind"),
    [(Path.mkdir, IsADirectoryError), (make_fifo, FileExistsError), (make_device, FileExistsError)],
    ids=["folder", "pipe", "device"],
)
def test_what_is_no_file_is_never_replaced(tmp_path: Path, make: object, kind: type[OSError]) -> None:
    make(tmp_path / "b")  # type: ignore[operator]
    before = os.stat(tmp_path / "b")
    with pytest.raises(kind, match=str(tmp_path / "b")):
        write_all(tmp_path, "new")
    after = os.stat(tmp_path / "b")
    assert (after.st_mode, after.st_ino, after.st_dev) == (before.st_mode, before.st_ino, before.st_dev)
    assert [one.name for one in tmp_path.iterdir()] == ["b"]


def test_what_became_a_pipe_while_the_files_were_written_is_not_replaced_either(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match=str(tmp_path / "b")), FileSet() as files:
        files.write_text(tmp_path / "a", "new")
        files.write_text(tmp_path / "b", "new")
        os.mkfifo(tmp_path / "b")
    assert [one.name for one in tmp_path.iterdir()] == ["b"]


def test_a_write_protected_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path, "old")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("b"))  # root may write everything
    with pytest.raises(PermissionError, match=str(tmp_path / "b")):
        write_all(tmp_path, "new")
    assert contents(tmp_path) == {"a": "old", "b": "old", "c": "old"}


def test_two_files_of_one_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(FileExistsError, match="Two files of one save have the same path"):
        write_all(tmp_path, "new", ("a", "link"))


def test_a_full_disk_names_the_file_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path / 'a'}'") as caught:
        write_all(tmp_path, "new")
    assert caught.value.errno == errno.ENOSPC
    assert contents(tmp_path) == {"a": "old", "b": "old", "c": "old"}


def test_numpys_error_for_a_full_disk_names_the_file(tmp_path: Path) -> None:
    message = rf"'{tmp_path / 'a'}' cannot be written: 8 requested and 4 written"
    with pytest.raises(OSError, match=message), FileSet() as files, files.open(tmp_path / "a"):
        raise OSError("8 requested and 4 written")


def test_a_folder_that_cannot_be_made_names_the_file(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "a", "")
    with pytest.raises(OSError, match=str(tmp_path / "a" / "b")):
        write_text_atomic(tmp_path / "a" / "b", "")


_DIES = """
import os, sys
from pathlib import Path
from hotwheels.amct_pytorch.files import FileSet
files = FileSet().__enter__()
files.write_text(Path(sys.argv[1]) / "a", "new")
os.kill(os.getpid(), 9)
"""


def test_what_a_dead_process_left_is_removed_by_the_next_save(tmp_path: Path) -> None:
    write_all(tmp_path, "old")
    subprocess.run([sys.executable, "-c", _DIES, str(tmp_path)], check=False)
    assert len(list(tmp_path.glob(".amct-*.tmp"))) == 1
    write_all(tmp_path, "newer")
    assert contents(tmp_path) == {"a": "newer", "b": "newer", "c": "newer"}


def test_what_a_living_process_is_writing_stays(tmp_path: Path) -> None:
    with FileSet() as files:
        files.write_text(tmp_path / "a", "mine")
        write_all(tmp_path, "other")
    assert contents(tmp_path) == {"a": "mine", "b": "other", "c": "other"}


def test_of_savers_at_the_same_time_one_complete_set_wins(tmp_path: Path) -> None:
    def save(number: int) -> None:
        for _ in range(25):
            write_all(tmp_path, str(number), tuple("abcdefgh"))
            found = set(contents_while_changing(tmp_path))
            assert found <= {"0", "1", "2", "3"}

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(set(contents(tmp_path).values())) == 1
    assert sorted(contents(tmp_path)) == list("abcdefgh")


def contents_while_changing(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in "abcdefgh"]
