"""Dropout functions become modules, so that they follow ``train()`` and ``eval()`` of the traced model.

A trace bakes the value of ``self.training`` into the call. Three cases are told apart:
1. ``F.dropout(x, p, self.training)`` follows the mode, whatever it was while tracing;
2. ``F.dropout(x)`` or ``training=True`` drops in evaluation too. It follows the mode all the same, since a deployed
   network must not drop (our choice);
3. ``training=False`` never drops and is left alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import Argument, map_aggregate

FOLLOWS_TRAINING = "amct_follows_training"  # marks calls that got the training flag of a module
FOLDER = "amct_dropout"  # the sub-module which holds what dropout functions became

_MODULES: dict[Callable[..., Any], type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
    torch.dropout: nn.Dropout,
}


class TrainingFlag(int):
    """The value of ``module.training`` while tracing: a bool to the model, recognisable in the graph."""

    def __repr__(self) -> str:
        """Reads as the bool it stands for, because generated code prints it."""
        return repr(bool(self))


def follow_training_mode(module: GraphModule) -> None:
    """Replaces dropout functions of ``module`` by dropout modules, in place; node names stay."""
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in _MODULES:
            _replace(module, node)
        if any(isinstance(value, TrainingFlag) for value in (*node.args, *node.kwargs.values())):
            node.meta[FOLLOWS_TRAINING] = True
        node.args = _without_flags(node.args)
        node.kwargs = _without_flags(node.kwargs)
    module.recompile()


def _replace(module: GraphModule, node: Node) -> None:
    function: Any = node.target
    arguments = _arguments(node, function)
    training = arguments.get("training", True)
    if not isinstance(training, TrainingFlag) and not training:
        return
    dropout = _MODULES[function](float(arguments["p"]))
    path = f"{FOLDER}.{node.name}"
    module.add_submodule(path, dropout)
    module.get_submodule(FOLDER).train(module.training)
    node.op, node.target, node.args, node.kwargs = "call_module", path, (arguments["input"],), {}


def _arguments(node: Node, function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the arguments of a dropout call by name; ``torch.dropout`` calls the last one ``train``."""
    if function is torch.dropout:
        names = ("input", "p", "training")
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        return given | ({"training": given["train"]} if "train" in given else {})
    bound = inspect.signature(function).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    return bound.arguments


def _without_flags(arguments: Any) -> Any:
    def plain(value: Argument) -> Argument:
        return bool(value) if isinstance(value, TrainingFlag) else value

    return map_aggregate(arguments, plain)
