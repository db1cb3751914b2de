"""Stages of one run: each is timed, and the outcome names the stage that failed."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

from .outcome import Outcome


class ConformanceError(Exception):
    """Two results that must agree differ."""


class StageFailed(Exception):
    """The outcome holds the error already."""


class Stages:
    """The stages of one run, and its outcome."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Outcome]:
        """Times the block; if it raises, notes the error in the outcome and raises StageFailed."""
        started = time.perf_counter()
        try:
            yield self.outcome
        except Exception as error:
            self.outcome.stage, self.outcome.error = name, one_line(error)
            raise StageFailed from error
        finally:
            self.outcome.seconds[name] = round(time.perf_counter() - started, 2)


def one_line(error: BaseException) -> str:
    """Returns class and text of an error without line breaks and without the folder of the installation."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return re.sub(r'File "[^"]*/site-packages/', 'File "', text)
