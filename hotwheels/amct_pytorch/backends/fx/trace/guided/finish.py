"""Finishes a recorded guided graph: adds checks of frozen values, and clones constants that the graph changes."""

from __future__ import annotations

from typing import Any

from torch.fx import Graph, GraphModule, Node

from .....log import get_logger
from .....torch_private import pytree
from ..frozen import add_check, is_check
from ..run import Trace
from .guards import Guard
from .tracer import VALUE, WRITES

_log = get_logger(__name__)
_CHECKED = (bool, int, float, str, type(None))


def finish(trace: Trace) -> GraphModule:
    """Returns the graph of ``trace``, which checks its frozen values in every call."""
    graph, guards = trace.module.graph, trace.tracer.guards.guards
    _clone_written_constants(graph)
    _add_checks(graph, guards)
    _erase_answers(graph, guards)
    _tell(guards)
    graph.lint()
    trace.module.recompile()
    return trace.module


def _add_checks(graph: Graph, guards: list[Guard]) -> None:
    seen: set[tuple[Node, bool]] = set()
    for guard in guards:
        is_length = guard.kind == "len"
        value = guard.value if is_length else guard.node.meta[VALUE]
        if not guard.is_checked or not _is_checkable(value) or (guard.node, is_length) in seen:
            continue
        seen.add((guard.node, is_length))
        add_check(graph, guard.node, value, _what(guard), is_length)


def _is_checkable(value: Any) -> bool:
    return all(isinstance(leaf, _CHECKED) for leaf in pytree.tree_leaves(value))


def _what(guard: Guard) -> str:
    where = " ".join(guard.line.split())
    if guard.node.op == "placeholder":
        return f"The argument '{guard.node.target}' is fixed, as the model was traced with it (input_data=)."
    return f"The forward has read '{guard.node.name}' as a Python value ({where}), so it is fixed."


def _erase_answers(graph: Graph, guards: list[Guard]) -> None:
    """Erases comparisons and similar nodes that only led to a decision and whose result is not checked."""
    asked = {guard.node for guard in guards}
    for node in reversed(list(graph.nodes)):
        is_answer = node in asked or any(isinstance(node.meta.get(VALUE), kind) for kind in (bool,))
        if is_answer and not node.users and node.op.startswith("call") and not is_check(node):
            graph.erase_node(node)


def _tell(guards: list[Guard]) -> None:
    told = [one for one in guards if one.is_checked and one.node.op != "placeholder" and not one.is_count_of_parts]
    lines = {" ".join(guard.line.split()) for guard in told}
    if lines:
        _log.info_of_code(
            sorted(lines),
            "The forward reads sizes as Python values, so the traced model takes inputs of the size of input_data only;"
            " any number of samples.",
        )


def _clone_written_constants(graph: Graph) -> None:
    """Makes the graph change a copy of a constant, since each run needs the original constant."""
    written = {
        str(target.target)
        for node in graph.nodes
        for target in node.meta.get(WRITES, ())
        if target.op == "get_attr" and str(target.target).startswith("_tensor_constant")
    }
    for name in sorted(written):
        first, *others = [node for node in graph.nodes if node.op == "get_attr" and node.target == name]
        with graph.inserting_after(first):
            clone = graph.create_node("call_method", "clone", (first,), {}, name=f"{first.name}_clone")
        clone.meta[VALUE] = first.meta[VALUE]
        first.replace_all_uses_with(clone, lambda user, clone=clone: user is not clone)
        for other in others:
            other.replace_all_uses_with(clone)
            graph.erase_node(other)
        for node in graph.nodes:
            targets = node.meta.get(WRITES, ())
            if isinstance(targets, tuple) and any(one.op == "get_attr" and one.target == name for one in targets):
                node.meta[WRITES] = tuple(
                    clone if one.op == "get_attr" and one.target == name else one for one in targets
                )
