"""Copies constants that a forward makes anew in each run before the graph changes them in place."""

from __future__ import annotations

from collections.abc import Callable

from torch.fx import GraphModule, Node

from ....errors import UnsupportedModelError
from ..trace.made_tensors import MADE

_VIEW = (
    "The forward makes a tensor without the input and changes a view of it (z = torch.zeros(4); z[0].add_(x)), which"
    " this trace does not connect. Pass input_data= to trace the model as it is called, or write z[0] = z[0] + x."
)


def copy_made_constants(graph_module: GraphModule, changed_by: Callable[[Node], Node | None]) -> None:
    """Puts a copy in front of the changes of each such constant (``z = torch.zeros(4); z[0] = x``), in place.

    Without a copy the constant would keep what a run writes. ``changed_by`` returns the operand that a node changes.

    Raises:
      UnsupportedModelError: Such a constant and a view of it are two constants of the graph, one of which is changed.
    """
    reads: dict[int, list[Node]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and node.meta.get(MADE) is not None:
            reads.setdefault(node.meta[MADE], []).append(node)
    changed = {changed_by(node) for node in graph_module.graph.nodes}
    for nodes in reads.values():
        if changed.isdisjoint(nodes):
            continue
        if len({node.target for node in nodes}) > 1:
            line = next((one.stack_trace for one in nodes if one.stack_trace), "")
            raise UnsupportedModelError(f"{_VIEW}\n  {line}" if line else _VIEW)
        _copy(nodes)


def _copy(nodes: list[Node]) -> None:
    """Makes all readers of ``nodes``, which read one constant, read one copy."""
    first = nodes[0]
    with first.graph.inserting_after(first):
        copied = first.graph.call_method("clone", (first,))
    copied.meta |= {key: one for key, one in first.meta.items() if key != MADE}
    for one in nodes:
        for user in list(one.users):
            if user is not copied:
                user.replace_input_with(one, copied)
