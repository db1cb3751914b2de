"""Frozen facts: values that a trace has assumed to be fixed, which every call of the traced model checks.

A check is a node of the graph that reads a number, a flag or a length, and has no result. No exported file has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.fx import Graph, Node

from ....errors import UnsupportedModelError

NAME = "amct_check"


def require_value(value: Any, expected: Any, what: str) -> None:
    """Raises UnsupportedModelError if ``value`` is not ``expected``."""
    if isinstance(value, Tensor) or type(value) is not type(expected) or value != expected:
        found = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise UnsupportedModelError(f"{what} It was {expected!r} when the model was traced and is {found} now.")


def require_length(value: Any, expected: int, what: str) -> None:
    """Raises UnsupportedModelError unless ``value`` has ``expected`` elements."""
    require_value(len(value), expected, what)


_CHECKS: tuple[Callable[..., Any], ...] = (require_value, require_length)


def is_check(node: Node) -> bool:
    """Whether ``node`` only checks a frozen fact."""
    return node.op == "call_function" and node.target in _CHECKS


def known_number(node: Node) -> int | float | None:
    """Returns the number that ``node`` has for the example of the trace; None if it is no number, or not known."""
    value = node.meta.get("val")
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def check_number(node: Node) -> None:
    """Adds a check that ``node`` still has its known number, unless there is one."""
    if not any(is_check(user) for user in node.users):
        what = f"A layer has '{node.name}' as a constant, which the forward computes from sizes."
        add_check(node.graph, node, known_number(node), what)


def add_check(graph: Graph, node: Node, expected: Any, what: str, is_length: bool = False) -> None:
    """Adds a check directly behind ``node`` that its value is ``expected``; ``what`` begins the error's text."""
    last = node
    while last.op == "placeholder" and last.next.op == "placeholder":
        last = last.next
    with graph.inserting_after(last):
        check = require_length if is_length else require_value
        made = graph.create_node("call_function", check, (node, expected, what), {}, name=NAME)
    made.stack_trace = node.stack_trace
