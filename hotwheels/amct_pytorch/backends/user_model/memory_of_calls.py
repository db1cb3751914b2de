"""Finds models whose forward remembers: a call leaves values on the model that change the result of the next call.

A graph and a file hold one call. Caches (anchors, tables of positions) are no memory: the next call gives the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UnsupportedModelError
from ..batches.outputs import are_equal, output_tensors
from .model_state import unchanged
from .written_parameters import text_of_change


def refuse_memory(model: nn.Module, call: Callable[[], Any]) -> list[Tensor]:
    """Calls ``model`` once, and again if that has changed attributes of its modules; returns the first results.

    Buffers have the same values in both calls, since changes of buffers are known otherwise.

    Args:
      model: The float model; its state and torch's random generator are restored.
      call: Runs the model on copies of its example and returns the result.

    Raises:
      UnsupportedModelError: The second call gives another result; the text names the attributes. A model that draws
        random numbers is not refused. Or the forward puts another tensor in the place of a parameter.
    """
    with unchanged(model) as state, torch.no_grad():
        first = copies_of(call())
        for name in state.replaced_parameters():
            raise UnsupportedModelError(text_of_change(name, "by putting another tensor in its place"))
        changed = state.changed_attributes()
        state.restore_buffers()
        if not changed:
            return first
        second = copies_of(call())
        if are_equal(first, second):
            return first
    with unchanged(model), torch.no_grad():
        if not are_equal(first, copies_of(call())):
            return first
    names = ", ".join(f"'{name}'" for name in sorted(changed))
    msg = (
        f"{type(model).__name__} gives another result when it is called a second time on the same input: its forward"
        f" keeps values in {names}, and a graph or a file holds one call. Pass such values as arguments and return"
        " them, or keep a tensor of fixed shape in a buffer."
    )
    raise UnsupportedModelError(msg)


def copies_of(result: Any) -> list[Tensor]:
    """Returns copies of the tensors in ``result``."""
    return [one.detach().clone() for one in output_tensors(result)]
