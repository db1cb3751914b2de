"""Initializers of an ONNX graph: adds an initializer, removes unused initializers, finds free names."""

from __future__ import annotations

from collections.abc import Container, Iterable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def add_initializer(graph: ir.Graph, name: str, content: NDArray[np.generic] | ir.TensorProtocol) -> ir.Value:
    """Returns a new initializer ``name``; ``name_1``, ``name_2``, ... if the graph has an initializer of that name."""
    tensor = ir.Tensor(content) if isinstance(content, np.ndarray) else content
    tensor.name = free_name(name, graph.initializers)
    value = ir.val(tensor.name, const_value=tensor)
    graph.register_initializer(value)
    return value


def constant_of(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Returns the array of ``value`` if it is an initializer and no graph input; else None."""
    if value is None or not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


def remove_unused_initializers(graph: ir.Graph) -> None:
    """Drops the initializers of ``graph`` which no node reads and which are neither input nor output."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]


class NameGiver:
    """Returns every name only once: ``name``, ``name_1``, ``name_2``, ... ; in constant time per name."""

    def __init__(self) -> None:
        """Starts with all names free."""
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def reserve(self, names: Iterable[str]) -> None:
        """Marks ``names`` as taken."""
        self._taken.update(names)

    def give(self, wanted: str) -> str:
        """Returns the first free name of ``wanted``, ``wanted_1``, ``wanted_2``, ... and marks it as taken."""
        name, count = wanted, self._counts.get(wanted, 0)
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._counts[wanted] = count
        self._taken.add(name)
        return name


def free_name(wanted: str, taken: Container[str]) -> str:
    """Returns the first of ``wanted``, ``wanted_1``, ``wanted_2``, ... that is not in ``taken``."""
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name
