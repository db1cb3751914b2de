"""Kill campaign: a process dies at every write, sync and rename of every function that writes.

The remaining files must be complete files of the run before or of the run that died, readers must refuse a mixture, and
the next run must leave its own files only. ``python -m tests.fuzz.kill --help``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from hotwheels.amct_pytorch.errors import RecordError
from tests.fuzz.acts import ACTS, Act

_KILLED = 9  # exit code of a child that died where it was told to


@dataclasses.dataclass
class Tally:
    """What was tried and what was left."""

    kills: int = 0
    old: int = 0
    new: int = 0
    refused: int = 0

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.kills} kills: {self.old} left the old files, {self.new} the new, {self.refused} were refused"


def run_act(act: Act, only: tuple[str, ...] = (), every: int = 1, *, repeats: bool = True) -> Tally:
    """Kills ``act`` at each ``every``-th event, or at events called as in ``only``, and checks what is left.

    With ``repeats`` the act is run once more after each kill, else after the first one only.
    """
    tally = Tally()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before, after = folder / "before", folder / "after"
        before.mkdir()
        first, second = act.make(1), act.make(2)
        _in_child(first, before)
        shutil.copytree(before, after)
        _in_child(second, after)
        old, new = _contents(before), _contents(after)
        assert old != new, f"{act.name}: both runs write the same"
        for number in range(0, 10_000, every):
            place = folder / "place"
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(before, place)
            if not _in_child(second, place, _Countdown(number, only)):
                break
            tally.kills += 1
            _check(act, place, old, new, tally)
            if not repeats and number:
                continue
            _in_child(second, place)
            assert _contents(place, with_temporaries=True) == new, f"{act.name}: kill {number}, then another run"
    return tally


class _Countdown:
    """Ends the process at event ``number``, of those called as in ``only`` if that is not empty."""

    def __init__(self, number: int, only: tuple[str, ...]) -> None:
        self._left = number
        self._only = only

    def event(self, name: str, last_act: Callable[[], object] = lambda: None) -> None:
        if self._only and name not in self._only:
            return
        if self._left == 0:
            last_act()
            os._exit(_KILLED)
        self._left -= 1

    def install(self) -> None:
        for name in ("replace", "fsync", "chmod", "mkdir", "rmdir", "unlink"):
            setattr(os, name, self._counted(name, getattr(os, name)))
        opened = io.open

        def open_counted(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode not in ("wb", "ab"):
                return opened(file, mode, *args, **kwargs)
            self.event("open")
            return io.BufferedWriter(_DyingFile(file, mode, self))

        io.open = open_counted

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.event(name)
            return function(*args, **kwargs)

        return counted


class _DyingFile(io.FileIO):
    """Writes half of what it is given before the end comes."""

    def __init__(self, file: Any, mode: str, countdown: _Countdown) -> None:
        super().__init__(file, mode)
        self._countdown = countdown

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._countdown.event("write", lambda: super(_DyingFile, self).write(view[: len(view) // 2]))
        return super().write(data)


def _in_child(call: Callable[[], object], folder: Path, countdown: _Countdown | None = None) -> bool:
    """Runs ``call`` in a child process in ``folder``; returns whether the countdown ended it."""
    child = os.fork()
    if not child:
        status = 1
        try:
            os.chdir(folder)
            if countdown is not None:
                countdown.install()
            call()
            status = 0
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, _KILLED), f"the call ended with {code}"
    return code == _KILLED


def _contents(folder: Path, with_temporaries: bool = False) -> dict[str, bytes]:
    """The files but the log, which is appended to."""
    files = {str(one.relative_to(folder)): one for one in sorted(folder.rglob("*")) if one.is_file()}
    left_out = ("amct_log/",) if with_temporaries else ("amct_log/", ".amct-")
    return {name: one.read_bytes() for name, one in files.items() if not any(part in name for part in left_out)}


def _check(act: Act, place: Path, old: dict[str, bytes], new: dict[str, bytes], tally: Tally) -> None:
    found = _contents(place)
    for name, content in found.items():
        assert content in (old.get(name), new.get(name)), f"{act.name}: '{name}' is half a file"
    assert all(stat.S_ISREG(one.stat().st_mode) or one.is_dir() for one in place.rglob("*"))
    if found == old:
        tally.old += 1
    elif found == new:
        tally.new += 1
    if act.read is None:
        return
    refusal = _refusal(act.read, place)
    if found in (old, new):
        assert refusal is None, f"{act.name}: a complete set is refused: {refusal}"
    else:
        assert refusal is not None, f"{act.name}: files of two runs are accepted"
        assert any(f"'{name}'" in refusal for name in found), f"{act.name}: no file is named: {refusal}"
        tally.refused += 1


def _refusal(read: Callable[[], object], folder: Path) -> str | None:
    with contextlib.chdir(folder) if hasattr(contextlib, "chdir") else _chdir(folder):
        try:
            read()
        except RecordError as error:
            return str(error)
    return None


@contextlib.contextmanager
def _chdir(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_in_process(names: Iterable[str], *options: str) -> dict[str, Tally]:
    """Returns the tallies of these acts, killed one after another in a fresh process with one thread.

    A process whose libraries have started threads must not fork: the child waits for locks that no thread will release.
    """
    names = list(names)
    command = [sys.executable, "-m", "tests.fuzz.kill", *names, "--json", *options]
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | one_thread, timeout=300)
    assert ended.returncode == 0, ended.stderr[-4000:]
    tallies = [Tally(**json.loads(line)) for line in ended.stdout.splitlines() if line.startswith("{")]
    return dict(zip(names, tallies, strict=True))


def main() -> None:
    """Runs the campaign over all acts, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("acts", nargs="*", metavar="ACT", help=f"of {', '.join(ACTS)}; default all")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="kill at each N-th event only")
    parser.add_argument("--only", action="append", default=[], metavar="EVENT", help="at these events, as 'replace'")
    parser.add_argument("--repeat-once", action="store_true", help="run the act again after the first kill only")
    parser.add_argument("--json", action="store_true", help="print each tally as one line of JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)  # a child process has none of its parent's threads and would wait for them
    for name in args.acts or ACTS:
        tally = run_act(ACTS[name], tuple(args.only), args.every, repeats=not args.repeat_once)
        sys.stdout.write(json.dumps(dataclasses.asdict(tally)) if args.json else f"{name:28} {tally}")
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
