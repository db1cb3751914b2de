"""Collects the lines of the package's logger, which does not propagate to the root logger that caplog listens to."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


class LogLines(logging.Handler):
    """Keeps (level name, message) of every line."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname, record.getMessage()))

    def of(self, level: str) -> list[str]:
        """The messages of one level."""
        return [message for name, message in self.lines if name == level]

    @property
    def warnings(self) -> list[str]:
        return self.of("WARNING")


@pytest.fixture(autouse=True)
def log_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[LogLines]:
    """The lines of one test. With a handler in place no log file is made."""
    logger = logging.getLogger("hotwheels.amct_pytorch")
    collector = LogLines()
    monkeypatch.setattr(logger, "handlers", [collector])
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    monkeypatch.setattr(logger, "_cache", {})
    yield collector
