"""Errors name the file that they are about."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ..errors import AmctError, RecordError
from .paths import PathLike


@contextlib.contextmanager
def error_in_file(path: PathLike) -> Iterator[None]:
    """Puts the name of a file in front of an error that does not name it; what is too large is a RecordError."""
    try:
        yield
    except AmctError as error:
        if os.fspath(path) in str(error):
            raise
        raise type(error)(f"'{path}': {error}") from error
    except (MemoryError, RecursionError) as error:
        raise RecordError(f"'{path}' cannot be worked with: {error or 'there is not enough memory'}.") from error
