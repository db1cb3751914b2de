"""FileSet: files that are put into place together, or not at all (spec 1.6, 11.12)."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import stat
import types
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from pathlib import Path
from typing import BinaryIO, TypeVar

from .marks import digest
from .paths import PathLike
from .staging import Staging, locked

_THREADS = 4
_Item = TypeVar("_Item")


def write_text_atomic(path: PathLike, text: str) -> None:
    """Writes ``text`` as UTF-8; a reader sees the old or the new file, never a part (see `FileSet`)."""
    with FileSet() as files:
        files.write_text(path, text)


def part_of(files: FileSet | None) -> contextlib.AbstractContextManager[FileSet]:
    """Returns a context with ``files``, whose owner puts them into place; None gives a new set for this block."""
    return FileSet() if files is None else contextlib.nullcontext(files)


class FileSet:
    """The files of one save, written beside their targets and renamed when all of them are complete.

    Leaving the ``with`` block puts every file into place, synced to the disk; an error in the block leaves all older
    files unchanged and no new ones. Missing folders are made, and removed again after an error. If a target is a
    symbolic link, the file it points to is replaced. An existing file keeps its mode and, where that is allowed, its
    owner. If two processes write the same targets at the same time, all files of one of them remain.

    A process that dies in the block leaves a hidden folder, which the next save into the same folder removes. If the
    process dies between two renames, the targets are a mixture of two saves; `files.seal` lets readers detect that.
    """

    def __init__(self, reads: Iterable[PathLike] = (), *, is_durable: bool = True) -> None:
        """Makes a set without files.

        Args:
          reads: Files that the save reads, so that it must not replace them.
          is_durable: Whether the files are synced to the disk, so that a machine which loses its power keeps the old
            files or the new ones; for what can be made again (pictures, dumps) that time is not worth it.
        """
        self._is_durable = is_durable
        self._reads = {os.path.realpath(path) for path in reads}
        self._files: dict[Path, _Target] = {}
        self._digests: dict[Path, str] = {}
        self._stagings: dict[Path, Staging] = {}
        self._made: list[Path] = []  # folders, outer before inner

    def __enter__(self) -> FileSet:
        """Returns the set itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        """Puts the files into place unless there was an error."""
        try:
            if kind is None:
                self._commit()
        finally:
            for staging in self._stagings.values():
                staging.remove()
            for folder in reversed(self._made):
                with contextlib.suppress(OSError):  # it has the files
                    folder.rmdir()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The targets, as they were given, in the order in which they were opened."""
        return tuple(self._files)

    def staged(self, path: PathLike) -> Path:
        """Returns the path of the temporary file that holds the content of ``path`` until the end of the block."""
        return self._files[Path(path)].staged

    def add(self, path: PathLike) -> None:
        """Takes ``path`` as the next target; another thread may then `open` it and ask for its `digest`.

        Raises:
          OSError: See `open`.
        """
        with _errors_of(Path(path)):
            self._add(Path(path))

    @contextlib.contextmanager
    def open(self, path: PathLike) -> Iterator[BinaryIO]:
        """Opens the new content of ``path`` for writing.

        Raises:
          OSError: The target cannot be written, or is a folder, a device or a pipe; the error names ``path``, not the
            temporary file.
        """
        path = Path(path)
        with _errors_of(path):
            target = self._files.get(path) or self._add(path)
            self._digests.pop(path, None)
            with target.staged.open("wb") as file:
                yield file

    def digest(self, path: PathLike) -> str:
        """Returns the SHA-256 of the new content of ``path``, which is read once after each change."""
        path = Path(path)
        if path not in self._digests:
            self._digests[path] = digest(self.staged(path))
        return self._digests[path]

    def sync(self, path: PathLike) -> None:
        """Waits until the new content of ``path`` is on the disk, so that the end of the block waits less."""
        with _errors_of(Path(path)):
            _sync(self.staged(path))

    def write_bytes(self, path: PathLike, data: bytes) -> None:
        """Writes ``data``; see `open`."""
        with self.open(path) as file:
            file.write(data)

    def write_text(self, path: PathLike, text: str) -> None:
        """Writes ``text`` as UTF-8; see `open`."""
        self.write_bytes(path, text.encode("utf-8"))

    def append(self, path: PathLike, data: bytes) -> None:
        """Appends ``data`` to the new content of ``path``."""
        self._digests.pop(Path(path), None)
        with _errors_of(Path(path)), self.staged(path).open("ab") as file:
            file.write(data)

    def _add(self, path: Path) -> _Target:
        real = Path(os.path.realpath(path))
        _check_replaceable(real)
        if any(one.real == real and other != path for other, one in self._files.items()):
            raise FileExistsError(errno.EEXIST, "Two files of one save have the same path", str(real))
        if str(real) in self._reads:
            reason = "The save reads this file and would replace it; take another save_path"
            raise FileExistsError(errno.EEXIST, reason, str(path))
        missing = [one for one in (real.parent, *real.parent.parents) if not one.exists()]
        real.parent.mkdir(parents=True, exist_ok=True)
        self._made += reversed(missing)
        if real.parent not in self._stagings:
            self._stagings[real.parent] = Staging(real.parent)
        # The temporary file has the target's name: an ONNX file names the file of its tensors in the same folder.
        target = _Target(real=real, staged=self._stagings[real.parent].path / real.name)
        self._files[path] = target
        return target

    def _commit(self) -> None:
        if self._is_durable:
            _run_in_threads(self.sync, self._files)
        # The system frees the blocks of an old file when its last descriptor is closed: here after all renames and
        # without the lock, so that the renames follow each other at once.
        old: list[int] = []
        try:
            self._rename(old)
        finally:
            _run_in_threads(os.close, old)

    def _rename(self, old: list[int]) -> None:
        with locked(self._stagings):
            for path, target in self._files.items():
                with _errors_of(path):
                    _check_replaceable(target.real)
                    _keep_mode(target)
                if os.name == "posix":  # Windows does not replace an open file
                    with contextlib.suppress(OSError):  # there is no old file, or it may not be read
                        old.append(os.open(target.real, os.O_RDONLY))
            for path, target in self._files.items():
                with _errors_of(path):
                    os.replace(target.staged, target.real)
            for folder in self._stagings if self._is_durable else ():
                with contextlib.suppress(OSError):  # not every file system can sync a folder
                    _sync(folder)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Target:
    """One file: ``real`` is the target with links resolved, ``staged`` the temporary file with the new content."""

    real: Path
    staged: Path


def _check_replaceable(real: Path) -> None:
    """Raises OSError if ``real`` exists and is no regular file, or is a file that may not be written."""
    try:
        mode = os.stat(real).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(real))
    if not stat.S_ISREG(mode):
        raise FileExistsError(errno.EEXIST, "A device or pipe is not replaced by a file", str(real))
    if not os.access(real, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(real))


def _keep_mode(target: _Target) -> None:
    with contextlib.suppress(FileNotFoundError):
        old = os.stat(target.real)
        with contextlib.suppress(PermissionError):  # only root may change the owner
            os.chown(target.staged, old.st_uid, old.st_gid)
        os.chmod(target.staged, stat.S_IMODE(old.st_mode))


def _run_in_threads(function: Callable[[_Item], None], items: Iterable[_Item]) -> None:
    """Calls ``function`` for each item, several at the same time, as a disk takes requests; raises the first error."""
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(function, items):
            pass


def _sync(path: Path) -> None:
    """Waits until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Makes errors of the operating system name ``path``, the user's path, not the temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # numpy's text has the number of bytes written, but neither the file nor the reason
            raise OSError(f"'{path}' cannot be written: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error
