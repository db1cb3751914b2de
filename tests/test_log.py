"""Logging (spec 1.5): lines, levels, files, and no logging at import. Each case runs in a new process."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hotwheels.amct_pytorch

# The log alone, with an empty package above it: importing torch for each case would take a second a time.
PACKAGE = Path(hotwheels.amct_pytorch.__file__).parent
ALONE = (
    "import sys, types; package = types.ModuleType('hotwheels.amct_pytorch');"
    f"package.__path__ = [{str(PACKAGE)!r}]; sys.modules['hotwheels.amct_pytorch'] = package;"
)
WRITE = (
    ALONE
    + "from hotwheels.amct_pytorch.log import get_logger; log = get_logger('hotwheels.amct_pytorch.config.fx.expand');"
)
LOG = "amct_log/hotwheels.amct_pytorch.log"
FOUR = WRITE + "log.debug('d'); log.info('i %d', 7); log.warning('w'); log.error('e')"


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=variables, capture_output=True, text=True)


def test_importing_the_package_writes_nothing(tmp_path: Path) -> None:
    done = run("import hotwheels.amct_pytorch, picovision.nn", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_a_line_carries_time_level_and_module(tmp_path: Path) -> None:
    stderr = run(FOUR, tmp_path).stderr.splitlines()
    assert [line.split(" - ", 1)[1] for line in stderr] == [
        "INFO - [AMCT]:[expand]: i 7",
        "WARNING - [AMCT]:[expand]: w",
        "ERROR - [AMCT]:[expand]: e",
    ]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - ", stderr[0])


def test_the_file_its_modes_and_its_link(tmp_path: Path) -> None:
    run(FOUR, tmp_path)
    log = tmp_path / "amct_log" / "hotwheels.amct_pytorch.log"
    assert len(log.read_text().splitlines()) == 3
    assert stat.S_IMODE(log.parent.stat().st_mode) & 0o777 == 0o750 & ~_umask()
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    assert (log.parent / "amct_pytorch.log").resolve() == log.resolve()


def messages(folder: Path, name: str = LOG) -> list[str]:
    return [line.rpartition(": ")[2] for line in (folder / name).read_text().splitlines()]


def test_each_process_appends(tmp_path: Path) -> None:
    run(WRITE + "log.info('first')", tmp_path)
    run(WRITE + "log.info('second')", tmp_path)
    run(WRITE + "log.debug('says nothing')", tmp_path)
    assert messages(tmp_path) == ["first", "second"]
    assert "process" not in (tmp_path / LOG).read_text()


def test_lines_of_processes_at_the_same_time_are_whole_and_carry_the_process(tmp_path: Path) -> None:
    # A line carries the process only while other processes have the file open, so each waits for the others.
    code = WRITE + "import time, os, glob\n"
    code += "def meet(name):\n  open(f'{os.getpid()}.{name}', 'w')\n"
    code += "  while len(glob.glob('*.' + name)) < 3: time.sleep(0.01)\n"
    code += "log.info('ready'); meet('ready')\n"
    code += "[log.info('%s %d', 'x' * 2000, k) for k in range(50)]; meet('done')"
    variables = {**os.environ, "AMCT_LOG_LEVEL": "ERROR"}
    children = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=variables) for _ in range(3)]
    assert [child.wait(timeout=120) for child in children] == [0, 0, 0]
    lines = [line for line in (tmp_path / LOG).read_text().splitlines() if "ready" not in line]
    found = [
        re.fullmatch(r"[\d ,:-]+ - INFO - process (\d+) - \[AMCT\]:\[expand\]: x{2000} (\d+)", line) for line in lines
    ]
    assert sorted((int(one[1]), int(one[2])) for one in found if one) == sorted(
        (child.pid, number) for child in children for number in range(50)
    )


def test_a_forked_process_is_another_one(tmp_path: Path) -> None:
    run(WRITE + "import os; log.info('a'); pid = os.fork(); log.info('b'); pid and os.wait(); log.info('c')", tmp_path)
    assert sorted(messages(tmp_path)) == ["a", "b", "b", "c", "c"]


def test_the_file_is_rotated_and_three_old_ones_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        run(
            WRITE + f"import hotwheels.amct_pytorch.log_file as f; f.LARGEST = 100; log.info('{number}' * 60)", tmp_path
        )
    names = [LOG, *(f"{LOG}.{number}" for number in (1, 2, 3))]
    assert [messages(tmp_path, name)[0][0] for name in names] == ["4", "3", "2", "1"]
    assert len(list((tmp_path / "amct_log").iterdir())) == 5  # and the link
    assert stat.S_IMODE((tmp_path / LOG).stat().st_mode) == 0o640


def test_processes_that_rotate_at_the_same_time_lose_no_line(tmp_path: Path) -> None:
    code = WRITE + "import hotwheels.amct_pytorch.log_file as f; f.LARGEST = 20_000; f.KEPT = 40;"
    code += "[log.info('%s %d %d', 'x' * 1000, __import__('os').getpid(), k) for k in range(100)]"
    variables = {**os.environ, "AMCT_LOG_LEVEL": "ERROR"}
    children = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=variables) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    files = [one for one in (tmp_path / "amct_log").iterdir() if not one.is_symlink()]
    lines = {line.partition("x ")[2] for one in files for line in one.read_text().splitlines()}
    assert lines == {f"{child.pid} {number}" for child in children for number in range(100)}
    assert all(one.stat().st_size <= 22_000 for one in files)


def test_the_folder_of_the_first_line_stays_the_folder(tmp_path: Path) -> None:
    run(WRITE + "import os; log.info('a'); os.mkdir('b'); os.chdir('b'); log.info('b')", tmp_path)
    assert messages(tmp_path) == ["a", "b"]


def link_elsewhere(path: Path) -> None:
    path.symlink_to("../victim")


@pytest.mark.parametrize("make", [link_elsewhere, Path.mkdir, os.mkfifo], ids=["link", "folder", "pipe"])
def test_what_is_no_file_is_not_written_to(tmp_path: Path, make: Callable[[Path], object]) -> None:
    (tmp_path / "amct_log").mkdir()
    make(tmp_path / LOG)
    done = run(FOUR, tmp_path)
    assert done.returncode == 0
    assert "The log file cannot be written in 'amct_log'" in done.stderr
    assert len(done.stderr.splitlines()) == 4
    assert not (tmp_path / "victim").exists()


def test_a_log_that_can_no_longer_be_written_is_one_warning(tmp_path: Path) -> None:
    done = run(
        WRITE + "import shutil; log.info('a'); shutil.rmtree('amct_log'); log.info('b'); log.info('c')", tmp_path
    )
    assert [line.partition("]: ")[2][:30] for line in done.stderr.splitlines()] == [
        "a", "b", "The log file cannot be written", "c"
    ]  # fmt: skip


def test_screen_and_file_have_levels_of_their_own_in_any_case(tmp_path: Path) -> None:
    done = run(FOUR, tmp_path, AMCT_LOG_LEVEL="error", AMCT_LOG_FILE_LEVEL="Debug")
    assert len(done.stderr.splitlines()) == 1
    assert len((tmp_path / "amct_log" / "hotwheels.amct_pytorch.log").read_text().splitlines()) == 4


@pytest.mark.parametrize("variable", ["AMCT_LOG_LEVEL", "AMCT_LOG_FILE_LEVEL"])
def test_an_unknown_level_names_the_variable_and_the_levels(tmp_path: Path, variable: str) -> None:
    last = run(FOUR, tmp_path, **{variable: "LOUD"}).stderr.splitlines()[-1]
    assert "ConfigError" in last
    assert f"{variable} is 'LOUD'; allowed, in any case: DEBUG, INFO, WARNING, ERROR." in last


def test_an_unwritable_folder_is_a_warning_and_the_screen_still_works(tmp_path: Path) -> None:
    (tmp_path / "amct_log").write_text("a file where the folder should be")
    done = run(FOUR, tmp_path)
    assert done.returncode == 0
    assert "WARNING - [AMCT]:[log]: The log file cannot be written in 'amct_log'" in done.stderr
    assert "ERROR - [AMCT]:[expand]: e" in done.stderr


def test_the_root_logger_is_not_touched(tmp_path: Path) -> None:
    done = run(FOUR + "; import logging; print(logging.getLogger().handlers, logging.getLogger().level)", tmp_path)
    assert done.stdout == "[] 30\n"


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
