"""Runs a model on its example without side effects: the state of the model is restored (spec 1.6)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ExportError
from ...torch_private import pytree

_CONTAINERS = (list, dict, set)


def run_example(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """Returns the result of ``model`` in eval mode on copies of ``inputs``, without gradient.

    Raises:
      ExportError: The model cannot be called with ``inputs``.
    """
    copies = pytree.tree_map_only(Tensor, torch.clone, inputs)
    try:
        with torch.no_grad():
            return model.eval()(*copies)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ExportError(f"The model cannot be called with this input_data: {error}") from error


@contextlib.contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """Returns a context that restores buffers, training flags, plain attributes and the random generator at exit.

    Containers among the attributes get their elements back; changes inside the elements are not undone.
    """
    buffers = [(one, one.detach().clone()) for one in model.buffers()]
    attributes = [(module, _snapshot(vars(module))) for module in model.modules()]
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            for module, before in attributes:
                _restore(module, before)
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)


def _snapshot(attributes: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns each attribute with a copy of its elements; None as copy if it is no container."""
    return {
        name: (value, copy.copy(value) if isinstance(value, _CONTAINERS) else None)
        for name, value in attributes.items()
    }


def _restore(module: nn.Module, before: dict[str, tuple[Any, Any]]) -> None:
    own = vars(module)
    for name in [name for name in own if name not in before]:
        del own[name]
    for name, (value, elements) in before.items():
        own[name] = value
        if elements is not None and not _has_same(value, elements):
            _refill(value, elements)


def _has_same(container: Any, elements: Any) -> bool:
    pairs = zip(_flat(container), _flat(elements), strict=False)
    return len(container) == len(elements) and all(one is other for one, other in pairs)


def _flat(container: Any) -> list[Any]:
    return [one for pair in container.items() for one in pair] if isinstance(container, dict) else list(container)


def _refill(container: Any, elements: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(elements)
    else:
        container.update(elements)
