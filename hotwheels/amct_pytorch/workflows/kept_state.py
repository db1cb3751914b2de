"""Runs of a model without side effects: its state is restored, its inputs are copied."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..backends.fx.quant_graph_module import QuantGraphModule
from ..nn.quantized_layer import QuantizedLayer
from ..torch_private import pytree


def copies_of(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns ``inputs`` with every tensor copied, since the model may change its inputs in place."""
    return pytree.tree_map(lambda one: one.clone() if isinstance(one, Tensor) else one, inputs)  # type: ignore[no-any-return]


@contextlib.contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """Returns a context that restores modes, training flags and a requested dump at exit, also after an error."""
    modes = [(one, one.mode) for one in model.modules() if isinstance(one, QuantizedLayer)]
    training = [(one, one.training) for one in model.modules()]
    # Read from the attribute: QuantGraphModule has no public access to its watcher.
    watchers = [(one, vars(one).get("_watcher")) for one in model.modules() if isinstance(one, QuantGraphModule)]
    for graph, _ in watchers:
        vars(graph).pop("_watcher", None)
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.mode = mode
        for module, flag in training:
            module.training = flag  # not train(flag), which would set the children too
        for graph, watcher in watchers:
            vars(graph)["_watcher"] = watcher
