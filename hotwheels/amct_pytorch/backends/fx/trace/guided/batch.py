"""Finds numbers in a graph that depend on the batch size of the example, and replaces them by multiples of it."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from ..run import Trace
from .evaluation import leaves, map_leaves
from .guards import Guard
from .tracer import VALUE

BATCH = "amct_batch"  # the node whose value is the batch size
_MULTIPLE = "amct_batch_times"
FIXED = "amct_fixed"  # in the meta of a node: its value is a number that is equal for both batch sizes


class BatchError(ValueError):
    """The forward computes differently for different batch sizes."""


@dataclasses.dataclass(frozen=True)
class _Multiple:
    """A number in the arguments of a node that is ``factor`` times the batch size."""

    factor: int


def free_batch_size(first: Trace, second: Trace, sizes: tuple[int, int], is_proof: bool = False) -> bool:
    """Replaces in ``first`` the numbers that grow with the batch by its multiples; drops guards that follow the batch.

    Args:
      first: The trace with ``sizes[0]`` samples.
      second: The trace with ``sizes[1]`` samples.
      sizes: The two batch sizes.
      is_proof: Changes nothing, but checks that the replaced numbers fit ``second`` too.

    Returns:
      Whether there was such a number.

    Raises:
      BatchError: The two graphs have other differences; the text names the user's line.
    """
    pairs = _pairs(first, second)
    found: dict[Node, tuple[Any, Any]] = {}
    for one, other in pairs:
        args = _merged(one, (one.args, one.kwargs), (other.args, other.kwargs), dict(pairs), sizes, first, second)
        _compare_constants(one, other, first, second)
        if any(isinstance(leaf, _Multiple) for leaf in leaves(args)):
            found[one] = args
    if not is_proof:
        _insert_multiples(first.module.graph, found)
        first.tracer.guards.guards = _common_guards(first, second)
    return bool(found)


def has_sized_constants(graph: Graph) -> bool:
    """Whether a tensor is computed from constants and sizes alone, such as a kernel repeated for each channel."""
    constants: set[Node] = set()
    for node in graph.nodes:
        numbers = [one for one in node.all_input_nodes if type(one.meta.get(VALUE)) is int]
        others = set(node.all_input_nodes) - set(numbers)
        is_made = node.op == "call_method" and str(node.target).startswith("new_")  # x.new_ones(channels)
        if others:
            is_computed = others <= constants
        else:
            is_computed = bool(numbers) and isinstance(node.meta.get(VALUE), Tensor)  # torch.ones(channels)
        if node.op == "get_attr" or is_made or is_computed:
            constants.add(node)
            if numbers:
                return True
    return False


def mark_fixed(first: Trace, second: Trace) -> None:
    """Marks the nodes of ``first`` whose values are numbers that do not depend on the batch, see `FIXED`."""
    try:
        pairs = _pairs(first, second)
    except BatchError:
        return
    for one, other in pairs:
        if type(one.meta.get(VALUE)) is int and one.meta[VALUE] == other.meta.get(VALUE):
            one.meta[FIXED] = True


def _pairs(first: Trace, second: Trace) -> list[tuple[Node, Node]]:
    """Returns pairs of corresponding nodes of both graphs, without nodes that this module has added to the first."""
    ours = [node for node in first.module.graph.nodes if not node.name.startswith(BATCH)]
    theirs = list(second.module.graph.nodes)
    for one, other in zip(ours, theirs, strict=False):
        if (one.op, str(one.target)) != (other.op, str(other.target)):
            raise BatchError(_text(first, second, one))
    if len(ours) != len(theirs):
        raise BatchError(_text(first, second, ours[-1]))
    return list(zip(ours, theirs, strict=True))


def _merged(
    node: Node, one: Any, other: Any, twins: dict[Node, Node], sizes: tuple[int, int], first: Trace, second: Trace
) -> Any:
    """Returns the arguments ``one``, with a `_Multiple` for each number that grows with the batch."""
    ours, theirs = list(leaves(one)), list(leaves(other))
    if len(ours) != len(theirs):
        raise BatchError(_text(first, second, node))
    values = iter([_merged_leaf(a, b, twins, sizes) for a, b in zip(ours, theirs, strict=True)])
    merged = map_leaves(one, lambda _: next(values))
    if any(leaf is _DIFFERENT for leaf in leaves(merged)):
        raise BatchError(_text(first, second, node))
    return merged


_DIFFERENT = object()


def _merged_leaf(one: Any, other: Any, twins: dict[Node, Node], sizes: tuple[int, int]) -> Any:
    if isinstance(one, Node):
        if one.name.startswith(_MULTIPLE) or one.name == BATCH:
            return one if _factor_of(one) * sizes[1] == other else _DIFFERENT
        return one if twins.get(one) is other else _DIFFERENT
    if type(one) is not type(other):
        return _DIFFERENT
    if _is_equal(one, other):
        return one
    if type(one) is int and one % sizes[0] == 0 and one // sizes[0] * sizes[1] == other:
        return _Multiple(one // sizes[0])
    return _DIFFERENT


def _factor_of(node: Node) -> int:
    return 1 if node.name == BATCH else int(node.args[1])  # type: ignore[arg-type]


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and one != one:
        return bool(other != other)
    return bool(one == other)


def _compare_constants(one: Node, other: Node, first: Trace, second: Trace) -> None:
    if one.op != "get_attr":
        return
    ours, theirs = (_constant(trace, node) for trace, node in ((first, one), (second, other)))
    if ours is theirs or not isinstance(ours, Tensor):
        return
    if ours.shape != theirs.shape or not torch.equal(torch.nan_to_num(ours), torch.nan_to_num(theirs)):
        raise BatchError(_text(first, second, next(iter(one.users), one)))


def _constant(trace: Trace, node: Node) -> Any:
    path, _, name = str(node.target).rpartition(".")
    return getattr(trace.module.get_submodule(path), name)


def _insert_multiples(graph: Graph, found: dict[Node, tuple[Any, Any]]) -> None:
    if not found:
        return
    multiples: dict[int, Node] = {}
    source = next(node for node in graph.nodes if node.op == "placeholder" and _has_batch(node))
    after = source
    while after.next.op == "placeholder":
        after = after.next
    with graph.inserting_after(after):
        size = graph.create_node("call_method", "size", (source, 0), {}, name=BATCH)
    size.meta[VALUE] = source.meta[VALUE].shape[0]
    multiples[1] = size
    for node, (args, kwargs) in found.items():
        node.args = map_leaves(args, lambda leaf: _as_node(graph, leaf, size, multiples))
        node.kwargs = map_leaves(kwargs, lambda leaf: _as_node(graph, leaf, size, multiples))


def _as_node(graph: Graph, leaf: Any, size: Node, multiples: dict[int, Node]) -> Any:
    if not isinstance(leaf, _Multiple):
        return leaf
    if leaf.factor not in multiples:
        with graph.inserting_after(size):
            node = graph.create_node("call_function", operator.mul, (size, leaf.factor), {}, name=_MULTIPLE)
        node.meta[VALUE] = size.meta[VALUE] * leaf.factor
        multiples[leaf.factor] = node
    return multiples[leaf.factor]


def _has_batch(node: Node) -> bool:
    return isinstance(node.meta.get(VALUE), Tensor) and node.meta[VALUE].dim() > 0


def _common_guards(first: Trace, second: Trace) -> list[Guard]:
    """Returns the guards whose value is equal at both batch sizes; the graph does not depend on the others."""
    theirs = second.tracer.guards.guards
    return [
        one
        for one, other in zip(first.tracer.guards.guards, theirs, strict=False)
        if one.kind == other.kind and one.node.name == other.node.name and _is_equal(one.value, other.value)
    ]


def _text(first: Trace, second: Trace, node: Node) -> str:
    """Returns the error's text, with the line that read the differing value, or that of the first differing node."""
    pairs: Iterator[tuple[Guard, Guard]] = zip(first.tracer.guards.guards, second.tracer.guards.guards, strict=False)
    line = next((one.line for one, other in pairs if not _is_equal(one.value, other.value)), "") or node.stack_trace
    where = f"\n  {line}" if line else ""
    return (
        f"The forward does something else for each batch size (at '{node.name}'), and a static graph is one for all of"
        f" them.{where}\nTake what it needs from x.shape without converting it (int(), a loop over samples), or make it"
        " independent of the batch."
    )
