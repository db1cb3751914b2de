"""Fuzzing: every reader takes damaged files, or refuses them with one error that names the file.

``python -m tests.fuzz.fuzz --help``. A case is its reader, the seed and its number, so any failure can be repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import os
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from hotwheels.amct_pytorch.errors import AmctError
from tests.fuzz.mutate import mutated
from tests.fuzz.readers import Reader, readers

CORPUS = Path(__file__).parent / "corpus"  # files that once failed: <reader>/<number>
_LONGEST = 10  # seconds
_LARGEST = 1 << 20  # KiB that the process may grow by
_KEPT = Path("build/fuzz")  # where failing files are kept


@dataclasses.dataclass
class Tally:
    """What was tried and how it ended."""

    read: int = 0
    refused: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)
    slowest: float = 0.0

    def __str__(self) -> str:
        """One line for people."""
        total = self.read + self.refused + len(self.failures)
        return (
            f"{total} files: {self.read} read, {self.refused} refused, {len(self.failures)} failed;"
            f" slowest {self.slowest:.1f} s"
        )


def fuzz(reader: Reader, contents: Iterator[tuple[str, bytes]], tally: Tally) -> None:
    """Gives the reader each content; notes what is neither read nor refused properly."""
    with tempfile.TemporaryDirectory(prefix="amct-fuzz-") as name:
        folder = Path(name)
        for other, content in reader.around.items():
            (folder / other).write_bytes(content)
        for case, content in contents:
            path = folder / reader.file
            path.write_bytes(content)
            problem = _try(reader, path, tally)
            if problem is not None:
                _KEPT.mkdir(parents=True, exist_ok=True)
                kept = _KEPT / f"{reader.name} {case}".replace(" ", "_")
                kept.write_bytes(content)
                tally.failures.append(f"{reader.name}, case {case}: {problem} ({kept})")


def cases(reader: Reader, seed: int, numbers: Iterator[int]) -> Iterator[tuple[str, bytes]]:
    """Yields names and contents: variants of the reader's seeds."""
    others = [one for other in readers().values() for one in other.seeds]
    for number in numbers:
        draw = random.Random(f"{reader.name} {seed} {number}")
        yield f"{seed}.{number}", mutated(draw.choice(reader.seeds), others, draw)


def corpus(reader: Reader) -> Iterator[tuple[str, bytes]]:
    """Yields what once failed."""
    for path in sorted((CORPUS / reader.name.replace(" ", "_")).glob("*")):
        yield path.name, path.read_bytes()


class _TooLongError(BaseException):
    """The reader took longer than it may. No Exception, which a reader might catch."""


def _try(reader: Reader, path: Path, tally: Tally) -> str | None:
    """Returns what is wrong with how the reader ended, None if nothing is."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        with _limited(), _quiet():
            reader.read(path)
        tally.read += 1
    except (AmctError, OSError) as error:
        text = str(error)
        if path.name not in text:
            return f"the error does not name the file: {type(error).__name__}: {text[:200]}"
        tally.refused += 1
    except _TooLongError:
        return f"it takes longer than {_LONGEST} s"
    except Exception as error:
        return f"{type(error).__name__}: {error!s:.200}"
    tally.slowest = max(tally.slowest, time.process_time() - start)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return f"it takes {grown >> 10} MiB" if grown > _LARGEST else None


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> NoReturn:
        raise _TooLongError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, _LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzzes until the time is over; returns 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(readers())}; default all")
    parser.add_argument("--seconds", type=float, default=60, help="for all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, metavar="NUMBER", help="run this case only")
    args = parser.parse_args(arguments)
    chosen = [readers()[name] for name in args.readers or readers()]
    tallies: dict[str, Tally] = {}
    for reader in chosen:
        tally = tallies[reader.name] = Tally()
        fuzz(reader, corpus(reader), tally)
        numbers = iter([args.case]) if args.case is not None else _until(time.monotonic() + args.seconds / len(chosen))
        fuzz(reader, cases(reader, args.seed, numbers), tally)
        sys.stdout.write(f"{reader.name:22} {tally}\n")
        for failure in tally.failures[:20]:
            sys.stdout.write(f"  {failure}\n")
        sys.stdout.flush()
    total = Counter[str]()
    for tally in tallies.values():
        total.update(read=tally.read, refused=tally.refused, failed=len(tally.failures))
    sys.stdout.write(f"{'all':22} {total['read']} read, {total['refused']} refused, {total['failed']} failed\n")
    return int(total["failed"] > 0)


def _until(end: float) -> Iterator[int]:
    return itertools.takewhile(lambda _: time.monotonic() < end, itertools.count())


if __name__ == "__main__":
    os.environ.setdefault("AMCT_LOG_LEVEL", "ERROR")
    with tempfile.TemporaryDirectory() as away:  # the log goes there
        _KEPT = _KEPT.absolute()
        os.chdir(away)
        sys.exit(main())
