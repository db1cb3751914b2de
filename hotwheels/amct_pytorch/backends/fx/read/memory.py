"""Finds values of a graph that may share memory, for passes that remove in-place operations."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ....torch_private import Dropout, pytree

# Functions and methods that may return (a part of) their input's memory.
_VIEWS = frozenset(
    {"view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "expand"}
    | {"expand_as", "transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis", "t", "adjoint", "select"}
    | {"narrow", "diagonal", "unfold", "as_strided", "chunk", "split", "tensor_split", "unbind", "detach", "alias"}
    | {"contiguous", "to", "type", "type_as", "float", "half", "double", "cpu", "cuda", "real", "imag", "__getitem__"}
    | {"getattr", "getitem", "dropout", "dropout1d", "dropout2d", "dropout3d", "interpolate"}
)
_VIEW_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten, Dropout)
_PARTS = frozenset({"chunk", "split", "tensor_split", "unbind"})


@dataclasses.dataclass(frozen=True, eq=False)
class _Region:
    """A piece of memory; a part is inside its whole and does not overlap the other parts."""

    whole: _Region | None = None

    def contains(self, other: _Region | None) -> bool:
        while other is not None and other is not self:
            other = other.whole
        return other is self


class Memory:
    """The memory of the nodes seen so far, front to back."""

    def __init__(self, graph_module: GraphModule) -> None:
        """Starts without any node."""
        self._module = graph_module
        self._regions: dict[Node, _Region] = {}

    def add(self, node: Node, is_in_place: bool = False) -> None:
        """Adds the next node; ``is_in_place`` if its result is its first input, changed."""
        base = node.all_input_nodes[0] if node.all_input_nodes else None
        if base is not None and _is_part(node, base):
            self._regions[node] = _Region(whole=self._regions[base])
        elif base is not None and (is_in_place or self._is_view(node)):
            self._regions[node] = self._regions[base]
        else:
            self._regions[node] = _Region()

    def sharing(self, node: Node) -> Iterator[Node]:
        """Yields the other nodes whose memory overlaps that of ``node``."""
        region = self._regions[node]
        for other, its in self._regions.items():
            if other is not node and (region.contains(its) or its.contains(region)):
                yield other

    def _is_view(self, node: Node) -> bool:
        if node.op == "call_module":
            return isinstance(self._module.get_submodule(str(node.target)), _VIEW_MODULES)
        return node.op in ("call_function", "call_method") and _name(node) in _VIEWS


def are_apart(node: Node, other: Node) -> bool:
    """Whether the fake tensors of a guided trace prove that two nodes have different memory; False without them."""
    value, its = node.meta.get("val"), other.meta.get("val")
    if node is other or not isinstance(value, Tensor) or not isinstance(its, Tensor):
        return False
    return bool(value.untyped_storage()._cdata != its.untyped_storage()._cdata)


def is_known_to_share(node: Node, other: Node) -> bool:
    """Whether the fake tensors of a guided trace prove that two nodes have the same memory; False without them."""
    both = (node.meta.get("val"), other.meta.get("val"))
    return all(isinstance(value, Tensor) for value in both) and not are_apart(node, other)


def may_read_memory(node: Node) -> bool:
    """Whether ``node`` may read the values of its operands; False if a guided trace shows that it reads sizes only."""
    if "val" not in node.meta:
        return True
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(node.meta["val"]))


def _name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _is_part(node: Node, base: Node) -> bool:
    """Whether ``node`` picks one of the pieces into which ``base`` cut a tensor."""
    is_pick = node.target is operator.getitem and isinstance(node.args[1], int)
    return is_pick and base.op in ("call_function", "call_method") and _name(base) in _PARTS
