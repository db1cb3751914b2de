"""Logging (spec 1.5): lines, levels, files, and nothing at import. Each case is a process of its own, as the log is."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
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


def test_each_process_starts_the_file_anew(tmp_path: Path) -> None:
    run(FOUR, tmp_path)
    run(WRITE + "log.info('second')", tmp_path)
    lines = (tmp_path / "amct_log" / "hotwheels.amct_pytorch.log").read_text().splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["second"]


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
