"""Guards: the values that the user's Python code has read from traced values, which are then fixed in the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from torch.fx import Node

from ..user_code import user_frame


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guard:
    """One conversion of a traced value to a Python value.

    Attributes:
      kind: The conversion: ``bool``, ``int``, ``float``, ``index``, ``len``, ``text``, ``hash`` or ``argument``.
      value: The resulting Python value.
      line: File, line and code of the user, as in a traceback; empty if no user's code read the value.
      node: The node whose value was read.
      is_checked: Whether the quantized model checks that the value is equal in every call. Values that depend on no
        input of the model, and devices, are not checked.
    """

    kind: str
    value: Any
    line: str
    node: Node
    is_checked: bool

    @property
    def is_count_of_parts(self) -> bool:
        """Whether the value is the number of tensors into which a call has cut one, which seldom depends on sizes."""
        return self.kind == "len" and isinstance(self.node.meta.get("val"), (tuple, list))


@dataclasses.dataclass(frozen=True)
class _Question:
    """A possible conversion that is not confirmed yet, and its place in the user's code."""

    kind: str
    proxy: Any
    value: Any
    place: tuple[int, int]
    line: str


class GuardList:
    """The guards of one trace, in order.

    torch's argument parser calls ``__index__`` to see whether an argument could be an int, and then gives the call to
    the tracer with the original argument. So a question becomes a guard only if no such call follows.
    """

    def __init__(self) -> None:
        """Starts without a guard."""
        self.guards: list[Guard] = []
        self._waiting: list[_Question] = []

    def ask(self, kind: str, proxy: Any, value: Any) -> None:
        """Notes that the user's code read ``value`` from ``proxy``."""
        frame = user_frame()
        question = _Question(kind, proxy, value, frame.place, frame.line)
        if kind == "index":
            self._waiting.append(question)
        else:
            self._confirm([*self._take_waiting(), question])

    def drop(self, proxies: Iterable[Any]) -> None:
        """Drops the unconfirmed questions on ``proxies`` that come from the call that is running now."""
        place = user_frame().place
        asked = {id(proxy) for proxy in proxies}
        self._waiting = [one for one in self._waiting if one.place != place or id(one.proxy) not in asked]

    def confirm(self) -> None:
        """Turns the unconfirmed questions into guards; called before the next node is made, and at the end."""
        if self._waiting:
            self._confirm(self._take_waiting())

    def _take_waiting(self) -> list[_Question]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def _confirm(self, questions: list[_Question]) -> None:
        for one in questions:
            node = one.proxy.node  # makes the node of an attribute
            is_checked = one.proxy.tracer.is_fed(node) and not one.proxy.is_device
            self.guards.append(Guard(kind=one.kind, value=one.value, line=one.line, node=node, is_checked=is_checked))
