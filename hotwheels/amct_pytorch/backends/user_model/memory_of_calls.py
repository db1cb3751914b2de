"""Finds models whose forward remembers: a call leaves values on the model that change the result of the next call.

A graph and a file hold one call. Caches (anchors, tables of positions) are no memory: the next call gives the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UnsupportedModelError
from ..batches.outputs import are_equal, output_tensors
from .kept_buffers import KeptBuffers

_REGISTRIES = frozenset({"_parameters", "_buffers", "_modules"})
_CONTAINERS = (list, dict, set)


def refuse_memory(
    model: nn.Module, call: Callable[[], Any], fresh: Callable[[], contextlib.AbstractContextManager[Any]]
) -> None:
    """Calls ``model`` once, and again if that has changed attributes of its modules.

    Buffers have the same values in both calls, since changes of buffers are known otherwise.

    Args:
      model: The float model.
      call: Runs the model on copies of its example and returns the result.
      fresh: Returns a context at whose exit the state of the model is restored.

    Raises:
      UnsupportedModelError: The second call gives another result; the text names the attributes. A model that draws
        random numbers is not refused.
    """
    with fresh(), torch.no_grad(), torch.random.fork_rng(devices=()):
        before = Attributes(model)
        with KeptBuffers(model):
            first = _copies(call())
        changed = before.changed()
        if not changed:
            return
        second = _copies(call())
        if are_equal(first, second):
            return
    with fresh(), torch.no_grad(), torch.random.fork_rng(devices=()):
        if not are_equal(first, _copies(call())):
            return
    names = ", ".join(f"'{name}'" for name in sorted(changed))
    msg = (
        f"{type(model).__name__} gives another result when it is called a second time on the same input: its forward"
        f" keeps values in {names}, and a graph or a file holds one call. Pass such values as arguments and return"
        " them, or keep a tensor of fixed shape in a buffer."
    )
    raise UnsupportedModelError(msg)


class Attributes:
    """The present attributes of the modules of a model, with the elements of lists, dicts and sets."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._found = {path: _snapshot(module) for path, module in self._modules.items()}

    def changed(self) -> set[str]:
        """Returns the names of attributes that are other objects now, or hold others."""
        names = set()
        for path, module in self._modules.items():
            before, now = self._found[path], _snapshot(module)
            different = {name for name in before.keys() | now.keys() if not _is_same(before.get(name), now.get(name))}
            names |= {f"{path}.{name}" if path else name for name in different}
        return names


def _snapshot(module: nn.Module) -> dict[str, list[Any]]:
    return {name: _elements(value) for name, value in vars(module).items() if name not in _REGISTRIES}


def _elements(value: Any) -> list[Any]:
    """Returns the object itself and, of a container, its elements."""
    if not isinstance(value, _CONTAINERS):
        return [value]
    return [value, *(one for pair in value.items() for one in pair)] if isinstance(value, dict) else [value, *value]


def _is_same(before: list[Any] | None, now: list[Any] | None) -> bool:
    if before is None or now is None or len(before) != len(now):
        return False
    return all(one is other for one, other in zip(before, now, strict=True))


def _copies(result: Any) -> list[Tensor]:
    return [one.detach().clone() for one in output_tensors(result)]
