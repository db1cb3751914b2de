"""Which BatchNorm can be folded into the convolution in front of it (spec 6.7).

Cases where it stays a layer of its own: the convolution is called at several places, feeds something else too, pads
with anything but zeros; the BatchNorm has no affine values or no running statistics; a folded value is not finite.
"""

from __future__ import annotations

from collections import Counter

from torch.fx import GraphModule, Node

from ....ops.registry import Registry
from ...fold_pair import is_foldable_pair
from .weight_names import weight_name


def foldable_convolutions(graph_module: GraphModule, registry: Registry) -> dict[Node, Node]:
    """Returns for every BatchNorm node that can be folded the convolution node it is folded into."""
    modules = {node: graph_module.get_submodule(node.target) for node in graph_module.graph.nodes if _calls(node)}
    sites = Counter(weight_name(node, module) for node, module in modules.items())
    found: dict[Node, Node] = {}
    for node, module in modules.items():
        conv = _sole_input(node)
        if conv is None or conv not in modules or sites[weight_name(conv, modules[conv])] > 1:
            continue
        if is_foldable_pair(modules[conv], module, registry):
            found[node] = conv
    return found


def _calls(node: Node) -> bool:
    return node.op == "call_module"


def _sole_input(node: Node) -> Node | None:
    """Returns the node whose only consumer is ``node``, if that is all that ``node`` reads."""
    inputs = node.all_input_nodes
    return inputs[0] if len(inputs) == 1 and len(inputs[0].users) == 1 else None
