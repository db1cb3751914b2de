"""The channel axis and the number of dimensions of tensors in a traced graph, as far as the graph shows them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ....ops.desc import Role
from ....ops.registry import Registry
from ....torch_private import Dropout
from ...layers.channel_axis import ChannelAxis
from .spelling import find_op

_IMAGE_ROLES = frozenset({Role.CONV, Role.CONV_TRANSPOSE, Role.MAX_POOL, Role.AVG_POOL})
_KEEPING_ROLES = frozenset({Role.LINEAR, Role.ACTIVATION, Role.FUSED_ACTIVATION, Role.NORM, Role.BATCH_NORM})
_LIKE_ANOTHER = ("reshape_as", "view_as", "expand_as")
_SHAPED = ("view", "reshape", "permute")


class Ranks:
    """The number of dimensions of the tensors of one graph."""

    def __init__(self, graph_module: GraphModule, registry: Registry) -> None:
        self._module = graph_module
        self._registry = registry
        self._known: dict[Node, int | None] = {}

    def of(self, node: Any) -> int | None:
        """Returns the number of dimensions of the result of ``node``; None if it is not known."""
        if not isinstance(node, Node):
            return None
        if node not in self._known:
            self._known[node] = None  # ends a recursion that comes back to this node
            self._known[node] = self._find(node)
        return self._known[node]

    def _of_constant(self, node: Node) -> int | None:
        if node.op != "get_attr":
            return None
        path, _, name = str(node.target).rpartition(".")
        value = getattr(self._module.get_submodule(path), name)
        return value.dim() if isinstance(value, Tensor) else None

    def _find(self, node: Node) -> int | None:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            return value.dim()
        module = self._module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Flatten):
            return 2 if (module.start_dim, module.end_dim) == (1, -1) else None
        if isinstance(module, (nn.Identity, Dropout)):
            return self.of(node.args[0])
        op = find_op(node, None if module is None else type(module), self._registry)
        if op is None and node.target in _LIKE_ANOTHER:
            return self.of(node.args[1])
        if op is None or not node.args:
            return self._of_constant(node)
        if op.role in _IMAGE_ROLES:
            return 2 + op.image_axes
        if op.role in _KEEPING_ROLES or op.name == "transpose":
            return self.of(node.args[0])
        if op.role in (Role.ELEMENTWISE, Role.MATMUL):
            ranks = [self.of(one) for one in node.all_input_nodes]
            return None if None in ranks else max(rank for rank in ranks if rank is not None)
        return _rank_of_shape(node, op.name, self.of(node.args[0]))


def _rank_of_shape(node: Node, name: str, before: int | None) -> int | None:
    """Returns the number of dimensions after a change of the shape; None if it is not known."""
    if name == "flatten":
        start, end = _flattened(node)
        if before is None or not isinstance(start, int) or not isinstance(end, int):
            return 2 if (start, end) == (1, -1) else None
        return before - (end % before - start % before)
    if name in _SHAPED and not node.kwargs:
        sizes: Any = node.args[1:]
        return len(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else len(sizes)
    return None


def moved(
    node: Node, axis: ChannelAxis, channels: int, name: str, module: nn.Module | None = None
) -> ChannelAxis | None:
    """Returns the channel axis of the result of ``node``, operation ``name``; None if channels are merged or split.

    ``module`` is the module that ``node`` calls, if any.
    """
    if name == "flatten":
        ends = _flattened(node) if module is None else (module.start_dim, module.end_dim)
        found = _behind_flatten(axis, *ends)
        if found is not None:
            return found
    sizes: tuple[Any, ...] = node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    if node.kwargs or not all(isinstance(size, int) for size in sizes):
        return None
    if name == "permute":
        dims = [size % len(sizes) for size in sizes]
        return ChannelAxis(dims.index(axis.index % len(dims)) - len(dims), len(dims))
    if name == "transpose" and len(sizes) == 2 and axis.rank is not None:
        first, second, own = (index % axis.rank for index in (*sizes, axis.index))
        new = second if own == first else first if own == second else own
        return ChannelAxis(new - axis.rank, axis.rank)
    is_last = axis.index == -1
    if name == "flatten" and is_last and sizes in ((0, 1), (0, -2)):
        return ChannelAxis(-1, 2 if sizes == (0, -2) or axis.rank == 3 else None)
    if name in ("view", "reshape") and is_last and sizes == (-1, channels):
        return ChannelAxis(-1, 2)
    return None


def _flattened(node: Node) -> tuple[Any, Any]:
    """Returns the first and the last axis that a call of ``flatten`` joins."""
    start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
    end = node.args[2] if len(node.args) > 2 else node.kwargs.get("end_dim", -1)
    return start, end


def _behind_flatten(axis: ChannelAxis, start: Any, end: Any) -> ChannelAxis | None:
    """Returns the channel axis if the joined axes are behind it; else None."""
    if axis.rank is None or not isinstance(start, int) or not isinstance(end, int):
        return None
    first, last, own = (one % axis.rank for one in (start, end, axis.index))
    if not own < first <= last:
        return None
    rank = axis.rank - (last - first)
    return ChannelAxis(own - rank, rank)
