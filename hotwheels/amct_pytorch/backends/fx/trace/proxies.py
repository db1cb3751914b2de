"""The Proxy of every trace: records augmented assignment and assignment to an index as in-place changes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.fx import Node, Proxy
from torch.fx.proxy import Attribute, TraceError

from ....graph import Form
from ...calls.item_assignment import place_of, with_places
from ..read.spelling import Spelling, spell

DATA_ASSIGNED = "assignment to the .data of a traced tensor cannot be recorded; write x.copy_(y)"

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
    """A Proxy that records that ``y += z`` and ``y[i] = z`` change ``y``.

    A stock Proxy has no ``__iadd__``, so Python computes ``y + z``, and other names of the same tensor keep the old
    values. The node is named as in a stock trace (``add``), and its type string is that of the operator.
    """

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute, with the same operators."""
        return TracedAttribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; TraceError for ``y.data = z`` unless ``y`` is a parameter; ``y.data += z`` is recorded."""
        if name != "data":
            super().__setattr__(name, value)
        elif not _changes_data(self, value):
            assign_data(self, value)

    def __getitem__(self, index: Any) -> Any:
        """Records ``self[index]``; a mask that is a constant chooses a known number of elements, by their places."""

        def place(mask: Tensor, axis: int) -> Any:
            return mask if isinstance(mask, Proxy) else self._record(place_of, (mask, axis))

        is_index = isinstance(index, (tuple, list, Tensor)) and not isinstance(index, Proxy)
        return self._record(operator.getitem, (self, with_places(index, place) if is_index else index))

    def _record(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return self.tracer.create_proxy("call_function", function, args, {})

    def __setitem__(self, index: Any, value: Any) -> None:
        """Records ``self[index] = value``; ``self[index] += other`` is ``self[index] = self[index] + other``."""
        _make_plain(self, value)
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


class TracedAttribute(TracedProxy, Attribute):
    """``y.data`` or another attribute; a method if it is called. Its node is made when it is used as a value."""


def assign_data(proxy: Proxy, value: Any) -> None:
    """Records ``parameter.data = value`` as a copy into the parameter; TraceError if ``proxy`` is no parameter."""
    if proxy.node.op != "get_attr":
        raise TraceError(DATA_ASSIGNED)
    proxy.tracer.create_proxy("call_method", "copy_", (proxy.data, value), {})


def _changes_data(proxy: Proxy, value: Any) -> bool:
    """Whether ``value`` is ``proxy.data``, changed by an operator like ``+=``."""
    node = value.node if isinstance(value, Proxy) else None
    if node is None or node.target not in IN_PLACE_OPERATORS:
        return False
    data = node.args[0]
    return isinstance(data, Node) and data.target is getattr and data.args == (proxy.node, "data")


def _make_plain(proxy: Proxy, value: Any) -> None:
    """Makes ``value`` a new tensor if it is a part of ``proxy`` that an operator like ``+=`` has changed."""
    node = value.node if isinstance(value, Proxy) else None
    if node is None or node.op != "call_function" or node.target not in IN_PLACE_OPERATORS:
        return
    part = node.args[0]
    if isinstance(part, Node) and part.target in (operator.getitem, "__getitem__") and part.args[0] is proxy.node:
        node.target = IN_PLACE_OPERATORS[node.target]
        node.meta.pop("amct_writes", None)


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
