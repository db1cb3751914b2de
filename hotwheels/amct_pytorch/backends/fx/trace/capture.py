"""Capture: traces a model with or without an example, and restores the state of the model."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.fx import GraphModule

from ....log import get_logger
from ...batches.example import Example
from .guided.capture import trace_guided
from .own_errors import error_of_call, with_place
from .stock import trace_stock
from .trace_errors import UntraceableError
from .tracer import LeafRule, LeafRules, callee_in_force

_log = get_logger(__name__)
_TRACING = threading.RLock()  # torch.fx and the guided tracer patch classes and functions that all threads use


def trace(
    model: nn.Module,
    leaf_packages: Sequence[str],
    is_leaf_type: LeafRule = lambda _cls: False,
    inputs: tuple[Any, ...] | None = None,
) -> GraphModule:
    """Returns the static graph of ``model``; it shares modules, parameters and buffers with ``model``.

    Node names are those of a stock trace with the same leaf rule (spec 8.2). Dropout functions become modules that
    follow ``train()``/``eval()``. The state of ``model`` is restored.

    Args:
      model: Any module; ``forward`` methods set on instances, including the root, are used.
      leaf_packages: Packages whose modules are leaves (capacity row ``LEAF_MODULE_PACKAGES``).
      is_leaf_type: Further module classes that are leaves; usually ``Registry.is_leaf_type``.
      inputs: An example call for the trace; None if there is none.

    Raises:
      UnsupportedModelError: The model cannot be traced; the message shows the line and a way to rewrite it.
      Exception: The user's own code fails, traced or not: what it raises, with a note of the layer and the line.
    """
    rules = LeafRules(tuple(leaf_packages), is_leaf_type)
    with _TRACING, _without_torch_log():
        if inputs is None:
            return trace_stock(model, rules)
        example = Example.of(inputs, callee_in_force(model) or model.forward)
        try:
            return trace_guided(model, rules, example)
        except UntraceableError as error:
            own = error_of_call(model, example)
            if own is None:
                raise
            raise with_place(own, model, error.problem.module_path, example) from None


@contextlib.contextmanager
def _without_torch_log() -> Iterator[None]:
    """Keeps torch from writing a traceback of hundred lines for an operation that fails on tensors without data.

    The error is raised all the same.
    """
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    was_disabled = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = was_disabled
