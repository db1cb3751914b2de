"""Budget: the memory and the work that a run of the oracle may take (docs/security.md)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import UnsupportedModelError
from ..files.limits import ORACLE_MEMORY, ORACLE_WORK
from .cost import Cost
from .deploy_pair import Graph, Node
from .values import Accumulator, Centred

_CONSTANTS = 4  # copies of the constants that a run may hold


class Budget:
    """Counts what one run holds and does; a node that would exceed a limit is refused before it is executed.

    Attributes:
      held: Bytes that the run holds.
      work: Operations done so far.
    """

    def __init__(self, graph: Graph, held: int = 0, *, is_limited: bool = True) -> None:
        """Begins a run of ``graph``; its caller holds ``held`` bytes. Without ``is_limited`` nothing is refused."""
        self.held = held
        self.work = 0.0
        self._is_limited = is_limited
        self._memory = ORACLE_MEMORY.most + _CONSTANTS * _size_of_constants(graph)

    def hold(self, values: Iterable[object]) -> None:
        """Counts values that are kept."""
        self.held += sum(map(_size_of, values))

    def release(self, value: object) -> None:
        """Counts a value that is dropped."""
        self.held -= _size_of(value)

    def spend(self, node: Node, cost: Cost) -> None:
        """Counts ``cost``.

        Raises:
          UnsupportedModelError: The run would exceed a limit.
        """
        self.work += cost.work
        if not self._is_limited:
            return
        if self.held + cost.memory > self._memory:
            self._refuse(node, (self.held + cost.memory) / 1e6, self._memory / 1e6, "MB of memory")
        if self.work > ORACLE_WORK.most:
            self._refuse(node, self.work, ORACLE_WORK.most, ORACLE_WORK.unit)

    def _refuse(self, node: Node, needed: float, most: float, unit: str) -> None:
        raise UnsupportedModelError(
            f"{node}: up to here a run needs {needed:,.0f} {unit}; at most {most:,.0f} are taken for files that may be"
            " damaged or hostile. Trust your own files with --unlimited (is_limited=False)."
        )


def _size_of(value: Any) -> int:
    if isinstance(value, Accumulator):
        return value.sums.nbytes + value.step.nbytes
    return int(value.integers.nbytes if isinstance(value, Centred) else value.nbytes)


def _size_of_constants(graph: Graph) -> int:
    """Returns the bytes of all constants, those in attributes and branches included."""
    count = sum(one.nbytes for one in graph.constants.values())
    for attribute in (attribute for node in graph.nodes for attribute in node.attributes.values()):
        if isinstance(attribute, Graph):
            count += _size_of_constants(attribute)
        elif isinstance(attribute, np.ndarray):
            count += attribute.nbytes
    return count
