"""The error classes of the package, one per kind of user error (spec 1.4)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_LONG = 500  # characters of a word, or between quotes; paths and names of real networks are shorter
_FIRST, _LAST = 80, 20
_LONG_WORD = re.compile(rf"'[^'\n]{{{_LONG},}}'|\S{{{_LONG},}}")


def with_short_names(text: str) -> str:
    """Returns ``text`` with the middle of each word or quoted name of 500 or more characters left out.

    Names come from files, and a damaged file may have a name of a million characters.
    """
    return _LONG_WORD.sub(_short, text) if len(text) >= _LONG else text


def _short(match: re.Match[str]) -> str:
    found = match[0]
    return f"{found[:_FIRST]}...({len(found) - _FIRST - _LAST} more characters)...{found[-_LAST:]}"


class AmctError(Exception):
    """Base of every error raised on purpose by this package; long names in its text are shortened."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(with_short_names(one) if isinstance(one, str) else one for one in args))


class ConfigError(AmctError, ValueError):
    """A configuration file, argument or environment variable has a wrong content."""


class UnsupportedModelError(AmctError, RuntimeError):
    """The model cannot be quantized as it is."""


class CalibrationError(AmctError, RuntimeError):
    """Quantization parameters are missing, or the observed data is unusable."""


class RecordError(AmctError, ValueError):
    """A quantization record file has a wrong content."""


class ExportError(AmctError, RuntimeError):
    """The quantized model cannot be written as ONNX."""


class ModelFileError(RecordError, ExportError):
    """An ONNX file is damaged or lacks what it claims. Both errors: it may be to be run, or to be exported from."""


class IncompleteRecordError(CalibrationError, ExportError):
    """A record lacks factors at export: an ExportError, as spec 3 demands, and a CalibrationError (spec 11.1)."""


class TorchVersionError(AmctError, RuntimeError):
    """The installed torch lacks a name that the call needs; the text says which versions have it."""


def nearest_names(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Returns a sentence with the names in ``known`` that are most similar to ``name``, for errors and warnings."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=limit, cutoff=0.5)
    if close:
        return f"Did you mean {', '.join(repr(one) for one in close)}?"
    shown = ", ".join(repr(one) for one in known[:5])
    more = f", ... ({len(known)} in all)" if len(known) > 5 else ""
    return f"Known names: {shown}{more}." if known else "There are none."
