"""Functions of torch.jit in a trace: they run as the Python functions they were made from, since they take no Proxy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Proxy

from ....torch_private import pytree


@contextlib.contextmanager
def script_functions_as_python() -> Iterator[None]:
    """Returns a context in which a function of torch.jit that gets a Proxy runs as Python.

    Nothing is done for a function whose Python code torch has not kept.
    """
    script: Any = torch.jit.ScriptFunction
    original = script.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        python = getattr(self, "_torchdynamo_inline", None)
        has_proxy = any(isinstance(leaf, Proxy) for leaf in pytree.tree_leaves((args, kwargs)))
        return original(self, *args, **kwargs) if python is None or not has_proxy else python(*args, **kwargs)

    script.__call__ = call
    try:
        yield
    finally:
        script.__call__ = original
