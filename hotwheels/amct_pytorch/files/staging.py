"""Staging: the hidden folder that holds new files until all of them can be renamed to their targets."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no locks, so abandoned folders stay
    fcntl = None  # type: ignore[assignment]

_START, _END = ".amct-", ".tmp"


class Staging:
    """A new folder inside the folder of the targets, since renaming is atomic only within one file system.

    The process holds a lock on the folder, which the system releases when the process ends, however it ends. If another
    process can lock the folder, its owner is dead: the next `Staging` in the same place removes it.

    Attributes:
      path: The folder, readable by its owner only.
    """

    def __init__(self, parent: Path) -> None:
        """Makes the folder, and removes the folders that dead processes left in ``parent``."""
        _remove_abandoned(parent)
        self.path, self._lock = _new_folder(parent)

    def remove(self) -> None:
        """Removes the folder and all files in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextlib.contextmanager
def locked(folders: Iterable[Path]) -> Iterator[None]:
    """Returns a context that holds locks on ``folders``; other processes and threads wait, if there are file locks."""
    with contextlib.ExitStack() as stack:
        for folder in sorted(set(folders)) if fcntl else ():  # sorted, so that two savers never wait for each other
            with contextlib.suppress(OSError):  # some network file systems have no locks
                descriptor = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _new_folder(parent: Path) -> tuple[Path, int | None]:
    """Returns a new folder and the descriptor that holds its lock; None as descriptor if there are no file locks."""
    host = re.sub(r"[^\w-]", "_", socket.gethostname())[:40]
    while True:
        path = parent / f"{_START}{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}{_END}"
        path.mkdir(mode=0o700)
        try:
            descriptor = _lock(path)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process found the folder before it was locked and removed it as abandoned
        if path.is_dir():
            return path, descriptor
        if descriptor is not None:
            os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob(f"{_START}*{_END}"):
        with contextlib.suppress(OSError):
            descriptor = _lock(path)
            if descriptor is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(descriptor)


def _lock(path: Path) -> int | None:
    """Returns a descriptor that holds the lock of the folder ``path``; None if the file system has no locks.

    Raises:
      BlockingIOError: Another process holds the lock.
      OSError: The folder cannot be opened.
    """
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
