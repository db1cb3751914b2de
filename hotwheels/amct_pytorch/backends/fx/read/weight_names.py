"""The name of a layer's weight: layers with equal names use the same weight."""

from __future__ import annotations

from torch import nn
from torch.fx import Node

from ....nn.weighted_call import WeightedCall


def weight_name(node: Node, module: nn.Module | None) -> str:
    """Returns the name of the weight of ``node``: the path of the called module, or of a function's weight."""
    if isinstance(module, WeightedCall):
        return f"{type(module).__name__} {module.weight_source.name}"
    return str(node.target)
