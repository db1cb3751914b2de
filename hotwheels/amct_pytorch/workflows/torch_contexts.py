"""Public functions run outside of the caller's torch.autocast and torch.inference_mode.

A comparison of models must not see results of 16 bits, and tensors that are made in inference mode cannot be calibrated
or trained outside of that mode.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])
_DEVICES = ("cpu", "cuda")


def in_full_precision(function: _Function) -> _Function:
    """Returns ``function`` such that it runs with autocast and inference mode off; gradients stay off or on."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            for device in filter(torch.is_autocast_enabled, _DEVICES):
                stack.enter_context(torch.autocast(device, enabled=False))
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
                stack.enter_context(torch.no_grad())
            return function(*args, **kwargs)

    return cast(_Function, run)
