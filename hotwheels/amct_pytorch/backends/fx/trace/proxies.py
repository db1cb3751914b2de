"""The Proxy of every trace: augmented assignment and assignment to an index are recorded as what they are."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch.fx import Node, Proxy

from ....graph import Form
from ..read.spelling import Spelling, spell

IN_PLACE_OPERATORS: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    operator.imatmul: operator.matmul,
    operator.iand: operator.and_,
    operator.ior: operator.or_,
    operator.ixor: operator.xor,
}


class TracedProxy(Proxy):
    """A Proxy which knows that ``y += z`` and ``y[i] = z`` change ``y``.

    A stock Proxy has no ``__iadd__``, so that Python takes ``y + z``: whatever else is the same tensor keeps its old
    values. The node is called as stock calls it (``add``), and its type string is that of the operator.
    """

    def __setitem__(self, index: Any, value: Any) -> None:
        """Records ``self[index] = value``; not for ``self[index] += other``, which has changed that part already."""
        if not _is_part_changed_in_place(self, index, value):
            self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _is_part_changed_in_place(proxy: Proxy, index: Any, value: Any) -> bool:
    """Whether ``value`` is ``proxy[index]``, changed by an operator like ``+=``."""
    node = value.node if isinstance(value, Proxy) else None
    if node is None or node.op != "call_function" or node.target not in IN_PLACE_OPERATORS:
        return False
    part = node.args[0]
    if not isinstance(part, Node) or part.target is not operator.getitem or part.args[0] is not proxy.node:
        return False
    return bool(part.args[1] == proxy.tracer.create_arg(index))


def _add_operator(in_place: Callable[..., Any], plain: Callable[..., Any]) -> None:
    def method(self: Proxy, other: Any) -> Any:
        return record_in_place(self, in_place, plain, other)

    method.__name__ = f"__{in_place.__name__}__"
    setattr(TracedProxy, method.__name__, method)


def record_in_place(proxy: Proxy, in_place: Callable[..., Any], plain: Callable[..., Any], other: Any) -> Any:
    """Records ``in_place(proxy, other)`` under the name of a stock trace and returns the result."""
    name = proxy.tracer.graph._target_to_str(plain)
    result = proxy.tracer.create_proxy("call_function", in_place, (proxy, other), {}, name=name)
    spell(result.node, Spelling(Form.FUNCTION, plain))
    return result


for _in_place, _plain in IN_PLACE_OPERATORS.items():
    _add_operator(_in_place, _plain)
