"""The lines of source that a user knows: neither torch's nor the ones of this package."""

from __future__ import annotations

import functools
import linecache
import sys
import types
from pathlib import Path

import torch

_OWN_FOLDERS = (Path(torch.__file__).parent, Path(__file__).parent)


@functools.cache
def is_user_file(filename: str) -> bool:
    """Whether code objects of this file name are the user's; generated code (``<eval_with_key>``) is not."""
    return not filename.startswith("<") and not any(folder in Path(filename).parents for folder in _OWN_FOLDERS)


def line_being_traced() -> str:
    """Returns the user's line which is running inside the trace in progress, as in a traceback; else an empty text."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not torch.fx.Tracer.trace.__code__:
        code = frame.f_code
        if is_user_file(code.co_filename):
            line = linecache.getline(code.co_filename, frame.f_lineno).strip()
            return f'File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}\n    {line}'
        frame = frame.f_back
    return ""
