"""SharedInput: lets the consumers of one tensor which share a quantizer also share its work (SPEC 8.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


class SharedInput:
    """Keeps the result of the first of ``uses`` consumers until the last one has fetched it.

    So a sibling's batch is observed once and quantized once, and the result lives no longer than a separate graph
    node's would.
    """

    def __init__(self, uses: int) -> None:
        self._uses = uses
        self._clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedInput:
        """A copy never carries a result along: it may belong to an autograd graph."""
        return SharedInput(self._uses)

    def __reduce__(self) -> tuple[type[SharedInput], tuple[int]]:
        return SharedInput, (self._uses,)

    def get(self, x: Tensor, purpose: str, compute: Callable[[Tensor], Any]) -> Any:
        """Returns ``compute(x)``, made once for all consumers of this very tensor and ``purpose``."""
        key = (x._version, purpose)
        if self._source is not x or self._key != key:
            self._source, self._key, self._value, self._left = x, key, compute(x), self._uses
        self._left -= 1
        value = self._value
        if self._left <= 0:
            self._clear()
        return value

    def _clear(self) -> None:
        self._source: Tensor | None = None
        self._key: tuple[int, str] | None = None
        self._value: Any = None
        self._left = 0
