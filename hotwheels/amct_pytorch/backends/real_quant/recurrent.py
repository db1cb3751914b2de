"""Runs recurrent modules of torch in float64 inside a model; they refuse inputs of another type than their weights."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from torch import nn

from ...nn.double_call import call_in_double
from ...torch_private import without_torch_function

_FORWARD = "forward"


class _DoubleForward:
    """Runs a module, with its weights, in float64."""

    def __init__(self, module: nn.Module) -> None:
        self._module = copy.copy(module)  # shares the weights, and has its own forward
        self._module.__dict__ = {**module.__dict__}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module in float64."""
        with without_torch_function():
            return call_in_double(self._module, args, kwargs)


@contextlib.contextmanager
def recurrent_in_double(model: nn.Module) -> Iterator[None]:
    """Returns a context in which RNN, LSTM and GRU of ``model`` compute in float64."""
    modules = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    own = [module.__dict__.get(_FORWARD) for module in modules]
    for module in modules:
        module.__dict__[_FORWARD] = _DoubleForward(module)
    try:
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            del module.__dict__[_FORWARD]
            if forward is not None:
                module.__dict__[_FORWARD] = forward
