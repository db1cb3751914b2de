"""The error classes of the package, one per kind of user error (spec 1.4)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AmctError(Exception):
    """Base of every error raised on purpose by this package."""


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
