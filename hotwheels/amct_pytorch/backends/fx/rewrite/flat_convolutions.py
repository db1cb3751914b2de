"""Writes a Conv3d whose kernel is flat as a convolution of images, which is a layer.

A kernel of size 1 along an axis, without stride or padding there, treats each place of this axis alone: the axis joins
the batch. LambdaNetworks have such a Conv3d over the channels of the values.

The node keeps its name and becomes ``F.conv2d``; the rest of the call becomes nodes named ``<name>_<part>``.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ....nn.module_hooks import has_hooks
from .inline import Inline, attribute, write_behind

_RANK = 5  # [batch, channels, three axes]


def flatten_convolutions(graph_module: GraphModule) -> None:
    """Rewrites ``graph_module`` in place; a call whose input has no known number of axes stays as it is."""
    for node in list(graph_module.graph.nodes):
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if type(module) is nn.Conv3d and not has_hooks(module) and len(node.args) == 1 and not node.kwargs:
            axis = _unit_axis(module)
            value = node.args[0].meta.get("val") if isinstance(node.args[0], Node) else None
            if axis is not None and isinstance(value, Tensor) and value.dim() == _RANK:
                _rewrite(graph_module, node, module, axis)


def _unit_axis(module: nn.Conv3d) -> int | None:
    """Returns the spatial axis, 0 to 2, along which each place is convolved alone; None without one."""
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    kernels = zip(module.kernel_size, module.stride, module.padding, strict=True)
    return next((axis for axis, one in enumerate(kernels) if one == (1, 1, 0)), None)


def _rewrite(root: GraphModule, node: Node, module: nn.Conv3d, axis: int) -> None:
    path, (x,) = str(node.target), node.args
    place = Inline(root, root.graph, "", node.name)

    def flat(sizes: Any) -> tuple[int, ...]:
        return tuple(size for at, size in enumerate(sizes) if at != axis)

    with root.graph.inserting_before(node):
        weight = place.proxies(attribute(root, node, f"{path}.weight")).squeeze(axis + 2)
        bias = None if module.bias is None else attribute(root, node, f"{path}.bias")
        images = place.proxies(x).movedim(axis + 2, 1)
        count = images.size(1)
        images = images.flatten(0, 1)
    settings = (flat(module.stride), flat(module.padding), flat(module.dilation), module.groups)
    node.op, node.target, node.args, node.kwargs = (
        "call_function",
        F.conv2d,
        (images.node, weight.node, bias, *settings),
        {},
    )
    write_behind(root, node, lambda _, y: y.unflatten(0, (-1, count)).movedim(1, axis + 2))
