"""Logging: one logger, a screen handler and a file handler made at first use (spec 1.5).

HiSilicon's AMCT manual, chapter "Log levels" [日志级别控制].
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from .errors import ConfigError
from .log_file import LogFile

_ROOT = "hotwheels.amct_pytorch"
_FOLDER = Path("amct_log")
_FILE = "hotwheels.amct_pytorch.log"
_LINK = "amct_pytorch.log"
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_LINE = "%(asctime)s - %(levelname)s - [AMCT]:[%(amct_module)s]: %(message)s"
_LAYERS, _PLACES, _CODE = "layers", "places", "code"
_MOST_PLACES = 10  # of a file, in one line
_MOST_CODE = 5  # lines of code, which are long
_LINE_OF_FILE = "%(asctime)s - %(levelname)s%(amct_process)s - [AMCT]:[%(amct_module)s]: %(message)s"

_Collected = dict[tuple["AmctLogger", int, str, str], list[str]]

# What `one_line_per_cause` collects: the places by logger, level, text and kind of place; None outside of it.
_collected: contextvars.ContextVar[_Collected | None] = contextvars.ContextVar("amct_places", default=None)


def get_logger(module: str) -> AmctLogger:
    """Returns the logger of the module with the ``__name__`` ``module``. Makes no file and no handler yet."""
    return AmctLogger(module.rpartition(".")[2])


@contextlib.contextmanager
def one_line_per_cause() -> Iterator[None]:
    """Inside, messages about layers or places with the same text are collected; each text is logged once at the end."""
    if _collected.get() is not None:
        yield
        return
    collected: _Collected = {}
    token = _collected.set(collected)
    try:
        yield
    finally:
        _collected.reset(token)
        for (logger, level, message, kind), places in collected.items():
            logger.log_at(level, message, tuple(dict.fromkeys(places)), kind)


def listed(names: Sequence[str], most: int, separator: str = "; ") -> str:
    """Returns the first ``most`` of ``names``, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


_least_level: contextvars.ContextVar[int] = contextvars.ContextVar("_least_level", default=logging.DEBUG)


@contextlib.contextmanager
def without_log() -> Iterator[None]:
    """Inside, nothing is logged: for a trial whose result alone is told."""
    with _from_level(logging.CRITICAL):
        yield


@contextlib.contextmanager
def warnings_only() -> Iterator[None]:
    """Inside, no stage of the work is logged: for the calibration of a copy that the user never gets."""
    with _from_level(logging.WARNING):
        yield


@contextlib.contextmanager
def _from_level(level: int) -> Iterator[None]:
    token = _least_level.set(max(level, _least_level.get()))
    try:
        yield
    finally:
        _least_level.reset(token)


class AmctLogger:
    """Writes lines with the module's name. The first line of the process makes the handlers."""

    def __init__(self, module: str) -> None:
        self._module = module

    @property
    def tells_stages(self) -> bool:
        """Whether `info` writes a line here."""
        return _least_level.get() <= logging.INFO and _ready_logger().isEnabledFor(logging.INFO)

    def debug(self, message: str, *args: object) -> None:
        """Logs a detail of the work on one layer."""
        self._log(logging.DEBUG, message, args)

    def info(self, message: str, *args: object) -> None:
        """Logs a stage of the work."""
        self._log(logging.INFO, message, args)

    def warning(self, message: str, *args: object) -> None:
        """Logs a request that was not carried out as given, and the reason."""
        self._log(logging.WARNING, message, args)

    def warning_of_layer(self, layer: str, message: str) -> None:
        """Logs a WARNING about one layer; see `one_line_per_cause`."""
        self._collect(logging.WARNING, message, (f"Layer '{layer}'",), _LAYERS)

    def warning_of_place(self, place: str, message: str) -> None:
        """Logs a WARNING about one place of a file; see `one_line_per_cause`."""
        self._collect(logging.WARNING, message, (place,), _PLACES)

    def warning_of_code(self, lines: Sequence[str], message: str) -> None:
        """Logs a WARNING about lines of the user's code; see `one_line_per_cause`."""
        self._collect(logging.WARNING, message, lines, _CODE)

    def info_of_code(self, lines: Sequence[str], message: str) -> None:
        """Logs an INFO about lines of the user's code; see `one_line_per_cause`."""
        self._collect(logging.INFO, message, lines, _CODE)

    def _collect(self, level: int, message: str, places: Sequence[str], kind: str) -> None:
        if level < _least_level.get():
            return
        collected = _collected.get()
        if collected is None:
            self.log_at(level, message, places, kind)
        else:
            collected.setdefault((self, level, message, kind), []).extend(places)

    def log_at(self, level: int, message: str, places: Sequence[str], kind: str) -> None:
        """Logs one line about all ``places`` of the kind ``kind``."""
        if kind == _CODE:
            self._log(level, "%s Places: %s", (message, listed(places, _MOST_CODE)))
        elif len(places) == 1:
            self._log(level, "%s: %s", (places[0], message))
        elif kind == _LAYERS:
            names = ", ".join(one.removeprefix("Layer ") for one in places)
            self._log(level, "%d layers: %s Layers: %s.", (len(places), message, names))
        else:
            self._log(level, "%d places: %s Places: %s.", (len(places), message, listed(places, _MOST_PLACES)))

    def error(self, message: str, *args: object) -> None:
        """Logs a failure."""
        self._log(logging.ERROR, message, args)

    def _log(self, level: int, message: str, args: tuple[object, ...]) -> None:
        if level >= _least_level.get():
            _ready_logger().log(level, message, *args, extra={"amct_module": self._module})


if TYPE_CHECKING:
    _TextHandler = logging.StreamHandler[TextIO]
else:
    _TextHandler = logging.StreamHandler  # generic only for type checkers on Python 3.10


class _ScreenHandler(_TextHandler):
    """Writes to the present ``sys.stderr``, so that redirection and test capture work."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """Ignored: the stream is always the current ``sys.stderr``."""


def _ready_logger() -> logging.Logger:
    logger = logging.getLogger(_ROOT)
    if logger.handlers:
        return logger
    screen_level, file_level = _level("AMCT_LOG_LEVEL"), _level("AMCT_LOG_FILE_LEVEL")
    logger.propagate = False
    logger.setLevel(min(screen_level, file_level))
    _add_handler(logger, _ScreenHandler(), screen_level, _LINE)
    try:
        _add_handler(logger, _open_log_file(), file_level, _LINE_OF_FILE)
    except OSError as error:
        _warn_of_no_file(error)
    return logger


def _warn_of_no_file(error: OSError) -> None:
    logging.getLogger(_ROOT).warning(
        "The log file cannot be written in '%s' (%s); messages go to the screen only.",
        _FOLDER,
        error,
        extra={"amct_module": "log"},
    )


def _add_handler(logger: logging.Logger, handler: logging.Handler, level: int, line: str) -> None:
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter(line))
    logger.addHandler(handler)


def _open_log_file() -> LogFile:
    _FOLDER.mkdir(mode=0o750, exist_ok=True)
    file = LogFile(_FOLDER / _FILE, _warn_of_no_file)
    with contextlib.suppress(OSError):  # the link is only a convenience; some file systems have no links
        link = _FOLDER / _LINK
        if not link.is_symlink() and not link.exists():
            link.symlink_to(_FILE)
    return file


def _level(variable: str) -> int:
    value = os.environ.get(variable, "INFO")
    if value.upper() not in _LEVELS:
        msg = f"Environment variable {variable} is {value!r}; allowed, in any case: {', '.join(_LEVELS)}."
        raise ConfigError(msg)
    return int(getattr(logging, value.upper()))
