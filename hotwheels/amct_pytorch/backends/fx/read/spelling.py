"""The spelling of an operation in the model, kept when a pass rewrites the node: type strings match this form only."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch.fx import Node

from ....graph import Form
from ....ops.desc import OpDesc
from ....ops.registry import Registry

_SPELLING = "amct_spelling"
_IN_PLACE = "amct_in_place"
_WRITTEN = "amct_written"

_FORMS = {
    "placeholder": Form.INPUT,
    "call_module": Form.MODULE,
    "call_function": Form.FUNCTION,
    "call_method": Form.METHOD,
    "get_attr": Form.CONSTANT,
    "output": Form.OUTPUT,
}


@dataclasses.dataclass(frozen=True)
class Spelling:
    """Form and target of a call as the user wrote it: a function object, a method name or a module path."""

    form: Form
    target: Any


def spelling_of(node: Node) -> Spelling:
    """Returns the spelling of ``node`` in the model, before any pass."""
    return node.meta.get(_SPELLING) or Spelling(_FORMS[node.op], node.target)


def spell(node: Node, spelling: Spelling) -> None:
    """Sets the spelling of ``node``, a node that a pass has made or changed."""
    node.meta[_SPELLING] = spelling


def remember_spelling(node: Node) -> None:
    """Keeps the present spelling of ``node`` through the changes that follow."""
    node.meta.setdefault(_SPELLING, spelling_of(node))


def mark_in_place(node: Node, reason: str) -> None:
    """Notes that ``node`` had to stay an in-place operation."""
    node.meta[_IN_PLACE] = reason


def mark_written(node: Node) -> None:
    """Notes that the graph changes the parameter or buffer that ``node`` reads, so its value is no constant."""
    for one in node.graph.nodes:
        if one.op == "get_attr" and one.target == node.target:
            one.meta[_WRITTEN] = True


def is_written(node: Node) -> bool:
    """Whether the graph changes the parameter or buffer that ``node`` reads, also under another name of its memory."""
    return _WRITTEN in node.meta


def in_place_reason(node: Node) -> str | None:
    """Returns why ``node`` is still an in-place operation; None if it is not."""
    return node.meta.get(_IN_PLACE)


def type_string(spelling: Spelling, module_class: type | None, registry: Registry) -> str:
    """Returns the type string; empty for nodes that call nothing."""
    if spelling.form is Form.MODULE and module_class is not None:
        return registry.module_type(module_class)
    if spelling.form is Form.FUNCTION:
        return registry.function_type(spelling.target)
    return str(spelling.target) if spelling.form is Form.METHOD else ""


def find_op(node: Node, module_class: type | None, registry: Registry) -> OpDesc | None:
    """Returns the registry's description of the present callable of ``node``, whatever the model's spelling was."""
    if module_class is not None:
        return registry.find_module(module_class)
    if node.op == "call_function":
        return registry.find_function(node.target)  # type: ignore[arg-type]
    return registry.find_method(str(node.target)) if node.op == "call_method" else None
