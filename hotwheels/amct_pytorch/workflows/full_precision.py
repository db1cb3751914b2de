"""Public functions run models outside of torch.autocast: a comparison of models must not see results of 16 bits."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])
_DEVICES = ("cpu", "cuda")


def in_full_precision(function: _Function) -> _Function:
    """Returns ``function`` such that it runs with autocast off, also inside the caller's ``torch.autocast``."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            for device in filter(torch.is_autocast_enabled, _DEVICES):
                stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return cast(_Function, run)
