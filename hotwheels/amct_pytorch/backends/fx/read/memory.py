"""Finds values of a graph that may share memory, for passes that remove in-place operations."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ....torch_private import Dropout, pytree
from ...calls.views import ONLY_READ, PARTS, SAME, VIEWS

# Functions and methods that return their tensor itself, or a copy.
_MAY_BE_SAME = frozenset(
    {"contiguous", "to", "type", "type_as", "float", "half", "double", "cpu", "cuda", "dropout", "dropout1d"}
    | {"dropout2d", "dropout3d", "interpolate", "alias"}
)
_MAY_COPY = _MAY_BE_SAME | {"reshape", "reshape_as", "flatten", "ravel"}
# Other spellings of `VIEWS`, and names that may return (a part of) their input's memory in a way not told here.
_SPELLINGS = {"view": "reshape", "data": "detach", "getitem": "__getitem__"}
_OTHERS = frozenset({"unfold", "as_strided", "real", "imag", "getattr"})
_KEYWORDS = {"split_size_or_sections": "split_size"}


@dataclasses.dataclass(frozen=True)
class View:
    """The call that makes a view: the arguments of `view_of` behind the tensor."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    part: int | None = None


@dataclasses.dataclass(eq=False)
class Alias:
    """A name of memory.

    Attributes:
      node: The node whose result is the present value.
      parent: The alias that this one is a view of; None for one with memory of its own.
      view: How it is made from the parent; None if that is not known.
      state: The node that reads the parameter or buffer; None if the memory is that of neither.
    """

    node: Node
    parent: Alias | None = None
    view: View | None = None
    state: Node | None = None

    def lineage(self) -> list[Alias]:
        """Returns this alias, its parent, the parent of that, and so on."""
        found, one = [], self
        while one is not None:
            found.append(one)
            one = one.parent  # type: ignore[assignment]
        return found


class Memory:
    """The memory of the nodes seen so far, front to back."""

    def __init__(self, graph_module: GraphModule) -> None:
        """Starts without any node."""
        self._module = graph_module
        self._aliases: dict[Node, Alias] = {}

    def __contains__(self, node: Node) -> bool:
        """Whether ``node`` was added."""
        return node in self._aliases

    def __getitem__(self, node: Node) -> Alias:
        """Returns the alias of the result of ``node``."""
        return self._aliases[node]

    def add(self, node: Node) -> None:
        """Adds the next node, which changes none of its operands."""
        base = self._base(node)
        if base is None:
            self._aliases[node] = Alias(node, state=node if node.op == "get_attr" else None)
            return
        whole = self._aliases[base]
        part = node.args[1] if node.target is operator.getitem else None
        if whole.view is not None and whole.view.name in PARTS and whole.view.part is None and isinstance(part, int):
            self._aliases[node] = Alias(node, whole.parent, dataclasses.replace(whole.view, part=part))
        else:
            self._aliases[node] = Alias(node, whole, self._view(node))

    def renew(self, alias: Alias, node: Node) -> None:
        """Makes the result of ``node`` the present value of ``alias``."""
        self._aliases[node] = alias
        alias.node = node

    def sharing(self, alias: Alias) -> Iterator[Alias]:
        """Yields the other aliases whose memory may overlap that of ``alias``."""
        own = alias.lineage()
        for other in dict.fromkeys(self._aliases.values()):
            if other is alias:
                continue
            others = other.lineage()
            common = next((one for one in own if one in others), None)
            if common is not None and not _are_parts_apart(own, others, common):
                yield other

    def _base(self, node: Node) -> Node | None:
        """Returns the operand whose memory the result of ``node`` has, or may have."""
        if node.op not in ("call_function", "call_method", "call_module") or not node.all_input_nodes:
            return None
        if "val" in node.meta and all("val" in one.meta for one in node.all_input_nodes):
            own = _memories(node)
            return next((one for one in node.all_input_nodes if own & _memories(one)), None)
        base = node.all_input_nodes[0]
        name = _name(node)
        if node.op == "call_module":
            is_view = isinstance(self._called(node), (nn.Identity, nn.Flatten, nn.Unflatten, Dropout))
        else:
            is_view = name in VIEWS | ONLY_READ | _OTHERS | _MAY_COPY or name in _SPELLINGS
        return base if is_view else None

    def _called(self, node: Node) -> nn.Module:
        return self._module.get_submodule(str(node.target))

    def _view(self, node: Node) -> View | None:
        """Returns the call that makes the view; None if it is not known, or if the result may be a copy."""
        is_sure = all("val" in one.meta for one in (node, *node.all_input_nodes))  # not behind nodes of a rewrite
        if node.op == "call_module":
            module = self._called(node)
            if isinstance(module, nn.Flatten) and is_sure:
                return View("flatten", (module.start_dim, module.end_dim))
            if isinstance(module, nn.Unflatten):
                return View("unflatten", (module.dim, module.unflattened_size))
            return View(SAME) if isinstance(module, (nn.Identity, Dropout)) and is_sure else None
        name, args, kwargs = _call(node)
        source = node.all_input_nodes[0].meta.get(
            "val"
        )  # None: a rewrite has made the node, and its result is a Tensor
        if is_sure and source is not None and not isinstance(source, Tensor):
            return None  # an element of a tuple
        name = _SPELLINGS.get(name, name)
        if _name(node) in _MAY_COPY and not is_sure:
            return None
        if name in _MAY_BE_SAME:
            return View(SAME)
        if name not in VIEWS | ONLY_READ or (name == "reshape" and any(isinstance(one, torch.dtype) for one in args)):
            return None
        if name == "__getitem__" and not is_sure and not _is_surely_view(args[0]):
            return None
        return View(name, args, kwargs)


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


def _memories(node: Node) -> set[int]:
    leaves = pytree.tree_leaves(node.meta["val"])
    return {one.untyped_storage()._cdata for one in leaves if isinstance(one, Tensor)}


def _name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _call(node: Node) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Returns the name and the arguments behind the tensor, as of a method."""
    if node.target is getattr:
        return str(node.args[1]), (), {}
    kwargs = {_KEYWORDS.get(key, key): one for key, one in node.kwargs.items() if key not in ("input", "tensor")}
    return _name(node), tuple(node.args[1:]), kwargs


def _is_surely_view(index: Any) -> bool:
    """Whether ``index`` gives a view of a tensor, and is no number, which may pick a result of several."""
    if isinstance(index, int):
        return False
    places = index if isinstance(index, tuple) else (index,)
    return all(
        one is None or one is Ellipsis or isinstance(one, slice) or (isinstance(one, int) and not isinstance(one, bool))
        for one in places
    )


def _are_parts_apart(own: list[Alias], others: list[Alias], common: Alias) -> bool:
    """Whether both lines go, below their ``common`` alias, through different parts of one cut."""
    if own[0] is common or others[0] is common:
        return False
    one, other = (line[line.index(common) - 1].view for line in (own, others))
    if one is None or other is None or one.part is None or other.part is None:
        return False
    same_cut = (one.name, one.args, one.kwargs) == (other.name, other.args, other.kwargs)
    return same_cut and one.part != other.part


def lost_change(call: Node, changed: Node) -> str:
    """Returns the text of the error for ``call`` of a user's code, which changes the result of ``changed`` in place."""
    return (
        f"'{call.name}' changes the result of '{changed.name}' in place, which is read later. Integers and exported"
        f" files do not have the change: give '{call.name}' a copy (clone()), or let it return a new tensor."
    )
