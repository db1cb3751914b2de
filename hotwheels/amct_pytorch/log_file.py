"""LogFile: a log that several processes append to, one after the other or at the same time."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no locks, so lines never name the process
    fcntl = None  # type: ignore[assignment]

LARGEST = 10 * 2**20  # bytes
KEPT = 3  # older files, <name>.1 to <name>.3
_MODE = 0o640
# A link could lead the lines anywhere, a pipe would make the first line wait for a reader.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class LogFile(logging.Handler):
    """Appends each line in one write, so that lines of several processes stay whole.

    The file is opened anew for every line, since another process may have rotated it. While another process has the log
    open, each line names its process, between level and module.
    """

    def __init__(self, path: Path, when_it_fails: Callable[[OSError], None]) -> None:
        """Opens the file for the first time; ``when_it_fails`` is called once, if a later line cannot be written.

        Raises:
          OSError: The file cannot be opened, or is a link, a folder, a device or a pipe.
        """
        super().__init__()
        self._path = path.absolute()  # scripts change their working directory
        self._when_it_fails = when_it_fails
        self._has_failed = False
        self._process = -1
        self._enter()

    def emit(self, record: logging.LogRecord) -> None:
        """Appends the line of ``record``."""
        if self._has_failed:
            return
        try:
            if self._process != os.getpid():  # a fork
                self._enter()
            record.amct_process = "" if self._is_alone() else f" - process {self._process}"
            self._append(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except OSError as error:
            self._has_failed = True
            self._when_it_fails(error)

    def _enter(self) -> None:
        """Takes a shared lock, which shows other processes that this process has the log open."""
        self._presence = self._open()
        self._process = os.getpid()
        _lock(self._presence, is_shared=True)

    def _is_alone(self) -> bool:
        """Whether no other process has the log open: only then an exclusive lock is granted."""
        if fcntl is None:
            return True
        try:
            fcntl.flock(self._presence, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
        finally:
            _lock(self._presence, is_shared=True)  # the attempt has released the shared lock in any case
        return True

    def _append(self, line: bytes) -> None:
        descriptor = self._open()
        try:
            size = os.fstat(descriptor).st_size
            if size and size + len(line) > LARGEST:
                self._rotate(descriptor)
                os.close(descriptor)
                descriptor = self._open()
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        descriptor = os.open(self._path, _FLAGS, _MODE)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "It is no regular file", str(self._path))
        if not found.st_size:
            with contextlib.suppress(OSError):  # some file systems have no modes
                os.chmod(self._path, _MODE)
        return descriptor

    def _rotate(self, descriptor: int) -> None:
        """Renames the file open as ``descriptor``, unless another process just did so."""
        with _locked(self._path.parent):
            if not self._is_in_place(descriptor):
                return
            names = [self._path, *(Path(f"{self._path}.{number}") for number in range(1, KEPT + 1))]
            for newer, older in reversed(list(itertools.pairwise(names))):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(newer, older)

    def _is_in_place(self, descriptor: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.fstat(descriptor).st_ino == os.lstat(self._path).st_ino
        return False


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if descriptor is not None:
            _lock(descriptor, is_shared=False)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(descriptor: int, *, is_shared: bool) -> None:
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)
