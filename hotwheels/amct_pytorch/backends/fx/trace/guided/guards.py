"""Guards: what the user's Python code has read from traced values, and so is fixed in the graph."""

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
      kind: What Python asked for: ``bool``, ``int``, ``float``, ``index``, ``len``, ``text``, ``hash`` or ``argument``.
      value: The answer.
      line: File, line and code of the user, as in a traceback; empty if no user's code asked.
      node: The node whose value was asked for.
      is_checked: Whether the quantized model checks that the value is the same in every call. Not checked: what
        depends on no input of the model, and devices.
    """

    kind: str
    value: Any
    line: str
    node: Node
    is_checked: bool


@dataclasses.dataclass(frozen=True)
class _Question:
    """A conversion which may turn out not to be one, and the place in the user's code that it comes from."""

    kind: str
    proxy: Any
    value: Any
    place: tuple[int, int]
    line: str


class GuardList:
    """The guards of one trace, in order.

    torch's argument parser calls ``__index__`` to see whether an argument could be an int, and then hands the call to
    the tracer with the argument as it was. Such a question waits until it shows whether the call comes.
    """

    def __init__(self) -> None:
        """Starts without a guard."""
        self.guards: list[Guard] = []
        self._waiting: list[_Question] = []

    def ask(self, kind: str, proxy: Any, value: Any) -> None:
        """Notes that the user's code took ``value`` for ``proxy``."""
        frame = user_frame()
        question = _Question(kind, proxy, value, frame.place, frame.line)
        if kind == "index":
            self._waiting.append(question)
        else:
            self._confirm([*self._take_waiting(), question])

    def drop(self, proxies: Iterable[Any]) -> None:
        """Forgets the waiting questions on ``proxies`` which the call that is running now has asked."""
        place = user_frame().place
        asked = {id(proxy) for proxy in proxies}
        self._waiting = [one for one in self._waiting if one.place != place or id(one.proxy) not in asked]

    def confirm(self) -> None:
        """Turns the waiting questions into guards; called before the next node is made, and at the end."""
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
