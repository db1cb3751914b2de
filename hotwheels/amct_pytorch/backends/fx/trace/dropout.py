"""Replaces dropout functions by modules, so that they follow ``train()`` and ``eval()`` of the traced model.

A trace stores the value of ``self.training`` in the call. There are three cases:
1. ``F.dropout(x, p, self.training)`` follows the mode of the module of that flag, whatever its mode in the trace;
2. ``F.dropout(x)`` or ``training=True`` drops in evaluation too. It still becomes a module that follows the mode of the
   calling module, since a deployed network must not drop values (our choice);
3. ``training=False`` never drops and is not changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule, Node

from .training import TrainingFlag, make_modules, read_flags

FOLLOWS_TRAINING = "amct_follows_training"  # marks calls that got the training flag of a module
FOLDER = "amct_dropout"  # the submodule that holds the modules of dropout functions

_MODULES: dict[Callable[..., Any], type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
    torch.dropout: nn.Dropout,
}


def follow_training_mode(module: GraphModule) -> None:
    """Replaces dropout functions of ``module`` by dropout modules, in place; node names stay.

    Other calls that take the flag of a module read it in every run.
    """
    is_changed = False
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in _MODULES:
            is_changed |= _replace(module, node)
        if any(isinstance(value, TrainingFlag) for value in (*node.args, *node.kwargs.values())):
            node.meta[FOLLOWS_TRAINING] = True
    if read_flags(module) or is_changed:
        module.recompile()


def _replace(module: GraphModule, node: Node) -> bool:
    """Makes ``node`` call a dropout module, unless it never drops; returns whether it does now."""
    function: Any = node.target
    arguments = _arguments(node, function)
    training = arguments.get("training", True)
    if not isinstance(training, TrainingFlag) and not training:
        return False
    dropout = _MODULES[function](float(arguments["p"]))
    if isinstance(training, TrainingFlag):
        path = add_follower(module, training.path, node.name, dropout, int(training) != 0)
    else:
        path = add_follower(module, owner_path(node), node.name, dropout)
    node.op, node.target, node.args, node.kwargs = "call_module", path, (arguments["input"],), {}
    return True


def add_follower(root: nn.Module, owner: str, name: str, follower: nn.Module, is_training: bool | None = None) -> str:
    """Registers ``follower`` below ``owner``, whose training mode it follows from now on; returns its path.

    ``is_training`` is the mode of modules that have to be made on the way, see `make_modules`.
    """
    home = make_modules(root, [*owner.split("."), FOLDER] if owner else [FOLDER], is_training)
    home.add_module(name, follower.train(home.training))
    return f"{owner}.{FOLDER}.{name}" if owner else f"{FOLDER}.{name}"


def owner_path(node: Node) -> str:
    """Returns the path of the module in whose forward ``node`` was recorded; empty for the model itself."""
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def _arguments(node: Node, function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the arguments of a dropout call by name; ``torch.dropout`` calls the last one ``train``."""
    if function is torch.dropout:
        names = ("input", "p", "training")
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        return given | ({"training": given["train"]} if "train" in given else {})
    bound = inspect.signature(function).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    return bound.arguments
