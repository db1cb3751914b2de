"""activation_behind: the ReLU or ReLU6 that alone reads the result of a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, fx

from ...nn.quantized_layer import QuantizedLayer
from ...ops.registry import Registry
from ..real_quant.known import op_of
from .read.called import callable_of

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "relu6": F.relu6}


def activation_behind(graph: fx.GraphModule, node: fx.Node) -> Callable[[Tensor], Tensor] | None:
    """Returns the ReLU or ReLU6 that alone reads the result of ``node``; None if there is none."""
    users = list(node.users)
    if len(users) != 1 or not users[0].op.startswith("call") or users[0].all_input_nodes != [node]:
        return None
    reader = callable_of(graph, users[0])
    op = reader.op if isinstance(reader, QuantizedLayer) else op_of(reader, Registry())
    return None if op is None else _ACTIVATIONS.get(op.name)
