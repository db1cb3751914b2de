"""Finds lines of the user's source: lines that are neither in torch nor in this package."""

from __future__ import annotations

import functools
import linecache
import sys
import types
from pathlib import Path
from typing import NamedTuple

import torch

_OWN_FOLDERS = (Path(torch.__file__).parent, Path(__file__).parent)


class UserFrame(NamedTuple):
    """The present position of a trace in the user's code.

    Attributes:
      place: Identity of the running frame, and the instruction in it.
      line: File, line and code, as in a traceback; empty if no user's code is running.
    """

    place: tuple[int, int]
    line: str


@functools.cache
def is_user_file(filename: str) -> bool:
    """Whether code with this file name is the user's; generated code (``<eval_with_key>``) is not."""
    return not filename.startswith("<") and not any(folder in Path(filename).parents for folder in _OWN_FOLDERS)


def line_being_traced() -> str:
    """Returns the user's line that the present trace is running, as in a traceback; empty if there is none."""
    return user_frame().line


def user_frame() -> UserFrame:
    """Returns the innermost frame of the user's code that the present trace is running."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not torch.fx.Tracer.trace.__code__:
        code = frame.f_code
        if is_user_file(code.co_filename):
            line = linecache.getline(code.co_filename, frame.f_lineno).strip()
            text = f'File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}\n    {line}'
            return UserFrame((id(frame), frame.f_lasti), text)
        frame = frame.f_back
    return UserFrame((0, 0), "")
