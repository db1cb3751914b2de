"""Replaces ``F.batch_norm`` with the statistics of the model by a BatchNorm module, in the same node.

Whether it follows ``train()`` and ``eval()``:

1. a call that gets ``self.training`` follows the module of that flag;
2. so does a call in the forward of a BatchNorm class that reads ``self.training``, on its own statistics;
3. any other call keeps using running statistics, or those of the batch, as it did in the trace.

A call on the statistics of the batch without running statistics stays a function.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule, Node

from ....nn.batch_norm_call import BatchNormCall
from ....torch_private import BatchNorm
from ..read.float_reason import mark_float
from ..read.spelling import remember_spelling
from ..trace.dropout import FOLLOWS_TRAINING
from .weight_sources import WeightSources
from .weighted_calls import erase_unread

_NAME = "amct_norm"  # start of the new submodule's name; the node's name follows

_BATCH_STATISTICS = "it normalizes with the statistics of the batch in evaluation, too"
_DATA = "its statistics, weight or bias are computed from the data"
_FUNCTIONS = (F.batch_norm, torch.batch_norm)


def place_norm_calls(graph_module: GraphModule) -> None:
    """Rewrites ``graph_module`` in place."""
    sources = WeightSources(graph_module)
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target in _FUNCTIONS and node not in sources:
            _replace(graph_module, node, sources)
    erase_unread(graph_module, sources)


def _replace(graph_module: GraphModule, node: Node, sources: WeightSources) -> None:
    given = _arguments(node)
    mean = given["running_mean"]
    follows = _follows_training(node, given["training"], mean)
    if mean is None or (not follows and given["training"]):
        mark_float(node, _BATCH_STATISTICS)
        return
    names = [name for name in ("running_mean", "running_var", "weight", "bias") if given[name] is not None]
    found = {name: sources.tensor(given[name]) for name in names}
    tensors = {name: one for name, one in found.items() if one is not None}
    if len(tensors) < len(names):
        mark_float(node, _DATA)
        return
    owner = str(mean.target).rpartition(".")[0] if mean.op == "get_attr" else ""
    home = graph_module.get_submodule(owner)
    counter = f"{owner}.num_batches_tracked" if owner else "num_batches_tracked"
    counts = follows and "num_batches_tracked" in home._buffers
    made = BatchNormCall(tensors, given["momentum"], given["eps"], counter if counts else None, not follows)
    name = f"{_NAME}_{node.name}"
    home.add_module(name, made.train(home.training))
    remember_spelling(node)
    path = f"{owner}.{name}" if owner else name
    node.op, node.target, node.args, node.kwargs = "call_module", path, (given["input"],), {}


def _arguments(node: Node) -> dict[str, Any]:
    if node.target is torch.batch_norm:
        names = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
        return dict(zip(names, node.args, strict=False)) | node.kwargs
    bound = inspect.signature(F.batch_norm).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    return bound.arguments


def _follows_training(node: Node, training: Any, mean: Any) -> bool:
    if isinstance(training, Node) or node.meta.get(FOLLOWS_TRAINING):
        return True
    return isinstance(mean, Node) and mean.op == "get_attr" and _is_in_batch_norm(node, str(mean.target))


def _is_in_batch_norm(node: Node, statistics: str) -> bool:
    """Whether ``node`` is in the forward of a BatchNorm class that reads its training flag, on its own statistics."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return False
    path, cls = next(reversed(stack.values()))
    is_own = statistics == (f"{path}.running_mean" if path else "running_mean")
    return is_own and isinstance(cls, type) and issubclass(cls, BatchNorm) and _looks_at_training(cls)


def _looks_at_training(cls: type[nn.Module]) -> bool:
    code = getattr(cls.forward, "__code__", None)
    return code is None or "training" in code.co_names
