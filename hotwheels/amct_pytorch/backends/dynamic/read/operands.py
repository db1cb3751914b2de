"""Finds the float tensors in the arguments of one call of a module."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ....graph import Edge
from ....ops.desc import OpDesc


def float_edges(module: nn.Module, op: OpDesc, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Edge, ...]:
    """Returns the edges of the float tensors that ``op`` declares as quantizable, in call order, without producers.

    An operation without declared operands takes all its arguments, lists flattened.
    """
    found: list[Edge] = []
    for argument, position in _places(module, op, args, kwargs):
        value = kwargs[argument] if argument in kwargs else args[position] if position < len(args) else None
        found += _edges_of(value, argument, position)
    return tuple(found)


def _places(
    module: nn.Module, op: OpDesc, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, int]]:
    declared = op.operands if op.module_operands is None else op.module_operands
    names = _argument_names(module)
    # Argument names of the module's forward; the table has those of torch's functions.
    if declared:
        yield from ((_name_at(names, one.position, one.name), one.position) for one in declared)
        return
    yield from ((_name_at(names, position, ""), position) for position in range(len(args)))
    yield from ((name, names.index(name) if name in names else len(names)) for name in kwargs)


def _edges_of(value: Any, argument: str, position: int) -> Iterator[Edge]:
    if isinstance(value, (list, tuple)):
        for element, one in enumerate(value):
            if _is_float_tensor(one):
                yield Edge("", argument, position, element)
    elif _is_float_tensor(value):
        yield Edge("", argument, position)


def _is_float_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _argument_names(module: nn.Module) -> list[str]:
    parameters = inspect.signature(type(module).forward).parameters.values()
    return [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)][1:]


def _name_at(names: list[str], position: int, default: str) -> str:
    return names[position] if position < len(names) else default
