"""What lets a model be run without a trace: its state comes back, its inputs are copies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..backends.fx.quant_graph_module import QuantGraphModule
from ..nn.quantized_layer import QuantizedLayer
from ..torch_private import pytree


def copies_of(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns ``inputs`` with every tensor copied: the model may work on them in place."""
    return pytree.tree_map(lambda one: one.clone() if isinstance(one, Tensor) else one, inputs)  # type: ignore[no-any-return]


@contextlib.contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """Gives modes, training flags and an armed dump back, whatever happens."""
    modes = [(one, one.mode) for one in model.modules() if isinstance(one, QuantizedLayer)]
    training = [(one, one.training) for one in model.modules()]
    # QuantGraphModule has no way to ask: the watcher is there for its own forward only.
    watchers = [(one, vars(one).get("_watcher")) for one in model.modules() if isinstance(one, QuantGraphModule)]
    for graph, _ in watchers:
        vars(graph).pop("_watcher", None)
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.mode = mode
        for module, flag in training:
            module.training = flag  # not train(flag), which sets the children as well
        for graph, watcher in watchers:
            vars(graph)["_watcher"] = watcher
