"""Finds the tensor arguments of a call that an operation declares, given by position or by keyword."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.fx import Node

from ....graph import Edge
from ....ops.desc import OpDesc, Operand


@dataclasses.dataclass(frozen=True)
class Given:
    """One argument of a call.

    Attributes:
      edge: The edge; its producer is empty if the argument is not the result of a node.
      node: The node whose result the argument is; None for a Python value.
      is_unknown_list: Whether the argument is a list of tensors whose length is not known before the run.
    """

    edge: Edge
    node: Node | None
    is_unknown_list: bool = False


def given_operands(node: Node, op: OpDesc, module: nn.Module | None) -> list[Given]:
    """Returns the arguments of ``node`` that ``op`` declares as quantizable, in call order.

    An operation without declared operands takes all its arguments, lists flattened.
    """
    if module is not None:
        return list(_of_module(node, op, module))
    return [given for operand in op.operands for given in _of_operand(node, operand)]


def operand_values(node: Node, op: OpDesc) -> list[Any]:
    """Returns the argument of a function or method call for each operand of ``op``: a Node or a Python value."""
    return [_argument(node, operand) for operand in op.operands]


def _of_module(node: Node, op: OpDesc, module: nn.Module) -> Iterator[Given]:
    declared = op.operands if op.module_operands is None else op.module_operands
    names = _argument_names(module)
    # Argument names of the module's forward; the table has those of torch's functions.
    operands = [Operand(name=_name_at(names, one.position, one.name), position=one.position) for one in declared]
    if not declared:
        operands = [Operand(name=_name_at(names, index, ""), position=index) for index in range(len(node.args))]
        operands += [Operand(name=name, position=_position_of(names, name)) for name in node.kwargs]
    for operand in operands:
        yield from _of_operand(node, operand)


def _of_operand(node: Node, operand: Operand) -> Iterator[Given]:
    value = _argument(node, operand)
    if isinstance(value, (list, tuple)):
        for index, element in enumerate(value):
            yield _given(element, operand, index)
    elif value is not None:
        yield dataclasses.replace(_given(value, operand), is_unknown_list=operand.is_list)


def _argument(node: Node, operand: Operand) -> Any:
    if operand.name in node.kwargs:
        return node.kwargs[operand.name]
    return node.args[operand.position] if operand.position < len(node.args) else None


def _given(value: Any, operand: Operand, element: int | None = None) -> Given:
    node = value if isinstance(value, Node) else None
    return Given(Edge(node.name if node else "", operand.name, operand.position, element), node)


def _argument_names(module: nn.Module) -> list[str]:
    parameters = inspect.signature(type(module).forward).parameters.values()
    return [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)][1:]


def _name_at(names: list[str], position: int, default: str) -> str:
    return names[position] if position < len(names) else default


def _position_of(names: list[str], name: str) -> int:
    return names.index(name) if name in names else len(names)
