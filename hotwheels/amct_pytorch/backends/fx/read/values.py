"""Classifies the values of a graph, as far as that is possible without running it (spec 8.3, last bullets)."""

from __future__ import annotations

import builtins
import enum
import math
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate, map_arg

from ....ops.desc import Role
from ....ops.registry import Registry
from ...real_quant.known import is_known


class Value(enum.Enum):
    """Kind of a node's result. An unknown kind counts as a float tensor; calibration finds the others (spec 4.7)."""

    TENSOR = "float tensor"
    SIZE = "derived from sizes"
    INTEGER = "integer or boolean tensor"
    CONSTANT = "computed from constants only"


_SIZE_ATTRIBUTES = frozenset(
    {"shape", "ndim", "dtype", "device", "layout", "itemsize", "nbytes", "requires_grad", "is_cuda", "is_leaf"}
)
_SIZE_METHODS = frozenset(
    {"size", "dim", "ndimension", "numel", "nelement", "stride", "item", "tolist", "get_device", "element_size"}
    | {"is_floating_point", "is_contiguous", "is_complex", "storage_offset"}
)
_INTEGER_METHODS = frozenset(
    {"int", "long", "short", "bool", "byte", "char", "argmax", "argmin", "argsort", "nonzero", "isnan", "isinf"}
    | {"eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "logical_xor"}
)
_INTEGER_FUNCTIONS = frozenset(
    {operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge}
    | {getattr(torch, name) for name in _INTEGER_METHODS if hasattr(torch, name)}
)
# Operators whose result consists of integers if the operands do.
_INTEGER_PRESERVING = frozenset(
    {operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg, operator.getitem}
    | {operator.and_, operator.or_, operator.xor, operator.invert}
)
_INTEGER_PRESERVING_METHODS = frozenset({"contiguous", "clone", "detach", "expand", "repeat", "chunk", "__getitem__"})
# Calls that read the shape, type and device of an operand, not its values: the first operand, or the second. Those that
# make random or undefined values are not among them.
_FACTS_OF_FIRST = frozenset({"new_zeros", "new_ones", "new_full", "new_tensor", "zeros_like", "ones_like", "full_like"})
_FACTS_OF_SECOND = frozenset({"type_as", "expand_as", "view_as", "reshape_as"})
_MOVING = frozenset({Role.SHAPE, Role.MOVEMENT})
_PYTHON_MODULES = frozenset({builtins.__name__, math.__name__, "_operator"})


def classify(graph: Graph, registry: Registry) -> Mapping[Node, Value]:
    """Returns the kind of every node's result."""
    values: dict[Node, Value] = {}
    for node in graph.nodes:
        values[node] = _value(node, {values[one] for one in _operands_with_data(node)}, registry)
    return values


def _operands_with_data(node: Node) -> list[Node]:
    """Returns the nodes whose values ``node`` reads, and not only their shape, type or device."""
    place = 0 if _is_like(node) else 1 if _name_of(node) in _FACTS_OF_SECOND else None
    if place is None:
        return node.all_input_nodes
    read: dict[Node, None] = {}
    map_arg(((*node.args[:place], *node.args[place + 1 :]), node.kwargs), read.setdefault)
    return list(read)


def _value(node: Node, inputs: set[Value], registry: Registry) -> Value:
    """Returns the kind of a node's result, given the kinds of the values that decide the result."""
    if node.op == "get_attr":
        return Value.CONSTANT
    if node.op in ("placeholder", "output"):
        return Value.TENSOR
    if _makes_size(node):
        return Value.SIZE
    if inputs <= {Value.CONSTANT, Value.SIZE} and (Value.CONSTANT in inputs or _is_like(node)):
        return Value.CONSTANT
    if node.op == "call_module":
        return Value.TENSOR
    if _makes_integers(node) or (_is_integer(inputs) and _preserves_integers(node, registry)):
        return Value.INTEGER
    if inputs == {Value.SIZE}:
        return Value.SIZE if _is_python(node) else _constant_or_unknown(node)
    return Value.TENSOR if inputs else _constant_or_unknown(node)


def _is_like(node: Node) -> bool:
    """Whether the call reads only size, type and device of its first argument."""
    return bool(node.args) and _name_of(node) in _FACTS_OF_FIRST


def _name_of(node: Node) -> str:
    """Returns the name of the method or torch's function that is called; empty for others, whatever their names."""
    if node.op == "call_method":
        return str(node.target)
    return getattr(node.target, "__name__", "") if node.op == "call_function" and is_known(node.target) else ""


def _makes_size(node: Node) -> bool:
    if node.op == "call_method":
        return node.target in _SIZE_METHODS
    if node.target is getattr:
        return node.args[1] in _SIZE_ATTRIBUTES
    return node.op == "call_function" and node.target is len


def _makes_integers(node: Node) -> bool:
    known: frozenset[Any] = _INTEGER_METHODS if node.op == "call_method" else _INTEGER_FUNCTIONS
    return node.target in known


def _is_integer(inputs: set[Value]) -> bool:
    return Value.INTEGER in inputs and inputs <= {Value.INTEGER, Value.SIZE}


def _preserves_integers(node: Node, registry: Registry) -> bool:
    if node.op == "call_method":
        op = registry.find_method(str(node.target))
        known = node.target in _INTEGER_PRESERVING_METHODS
    else:
        op = registry.find_function(node.target) if callable(node.target) else None
        known = node.target in _INTEGER_PRESERVING
    return (known or (op is not None and op.role in _MOVING)) and not _has_float(node)


def _has_float(node: Node) -> bool:
    found: list[object] = []
    map_aggregate((node.args, node.kwargs), lambda one: found.append(one) if isinstance(one, float) else one)
    return bool(found)


def _is_python(node: Node) -> bool:
    """Whether the call is plain Python: arithmetic, ``int()``, ``math``, or a method of a size."""
    return node.op == "call_method" or getattr(node.target, "__module__", "") in _PYTHON_MODULES


def _constant_or_unknown(node: Node) -> Value:
    """Returns CONSTANT for a torch function of sizes alone; a function wrapped by the user may return anything."""
    home = str(getattr(node.target, "__module__", None) or "torch")
    return Value.CONSTANT if home.partition(".")[0] == "torch" else Value.TENSOR
