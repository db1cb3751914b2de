"""GuidedProxy: a Proxy that has its value on the example.

Operations are recorded as in a stock trace. If Python reads a number, a truth, a length or a text, the example's value
is returned and becomes a guard.
"""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.proxy import TraceError

from .....torch_private import FakeTensor
from ..proxies import DATA_ASSIGNED, IN_PLACE_OPERATORS, TracedProxy, assign_data, record_in_place
from ..training import TrainingFlag
from .evaluation import VALUE_OF_DATA

_NUMBERS = (int, float, complex)  # bool is an int
_DEVICE = ("device", "is_cuda", "get_device")


class GuidedProxy(TracedProxy):
    """A traced value.

    Attributes:
      amct_value: The value on the example: a fake tensor, a real tensor if it depends on no input, a number, or a
        tuple, list or dict of these.
      is_device: Whether the value is a tensor's device. A model may be moved, so devices are not checked in a call.
    """

    tracer: Any
    amct_value: Any
    is_device: bool

    def __init__(self, node: Node | None, tracer: Any, value: Any, is_device: bool = False) -> None:
        """``node`` is None for an attribute, whose node is made when it is used."""
        self.tracer = tracer
        if node is not None:
            self.node = node
        self.amct_value = value
        self.is_device = is_device

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the value; AttributeError if it has none of this name."""
        if name in ("node", "tracer", "amct_value"):  # not set yet
            raise AttributeError(name)
        if isinstance(self.amct_value, dict) and name in _DICT_METHODS:
            return functools.partial(_DICT_METHODS[name], self)
        found = getattr(self.tracer.evaluator.as_seen(self.amct_value), name)
        if found is None:
            return None
        is_device = name in _DEVICE or self.is_device
        if isinstance(found, str):
            return self.tracer.ask("text", GuidedAttribute(self, name, found, is_device), found)
        return GuidedAttribute(self, name, found, is_device)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute of the Proxy, which readers see as an attribute of the tensor."""
        if name == "data":
            if not _is_same_tensor(self.amct_value, value):  # x.data += 1 assigns x.data itself
                if values_of(value).shape != self.amct_value.shape:
                    raise TraceError(DATA_ASSIGNED)
                assign_data(self, value)
            return
        super().__setattr__(name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Returns a copy of the value: a clone of a tensor, the same number."""
        return self.clone() if isinstance(self.amct_value, Tensor) else self

    def __len__(self) -> int:
        """Returns the length on the example."""
        return int(self.tracer.ask("len", self, len(self.amct_value)))

    def __bool__(self) -> bool:
        """Returns the truth on the example; TraceError if it depends on the data."""
        value = self.amct_value
        if isinstance(value, Tensor):
            return bool(self._scalar("bool", bool))
        if isinstance(value, (tuple, list, dict, str)):
            return len(self) > 0
        return bool(self.tracer.ask("bool", self, bool(value)))

    def __int__(self) -> int:
        """Returns the number on the example."""
        return int(self._scalar("int", int))

    def __float__(self) -> float:
        """Returns the number on the example."""
        return float(self._scalar("float", float))

    def __index__(self) -> int:
        """Returns the number on the example."""
        value = self.amct_value
        if not isinstance(value, Tensor) and not hasattr(value, "__index__"):
            msg = f"'{type(value).__name__}' object cannot be interpreted as an integer"
            raise TypeError(msg)
        return int(self._scalar("index", value.__class__.__index__))

    def _scalar(self, kind: str, convert: Any) -> Any:
        value = self.tracer.evaluator.as_seen(self.amct_value)
        if isinstance(value, FakeTensor):
            if value.numel() != 1:
                return convert(torch.empty(value.shape))  # raises what eager raises
            raise TraceError(f"{VALUE_OF_DATA} ({kind}() of a tensor)")
        return self.tracer.ask(kind, self, convert(value))

    def __hash__(self) -> int:
        """Returns the hash of a number, so that a dict with numbers as keys works; else that of the object."""
        value = self.amct_value
        if isinstance(value, (*_NUMBERS, tuple)):
            return int(self.tracer.ask("hash", self, hash(value)))
        return object.__hash__(self)

    def __eq__(self, other: object) -> Any:
        """Records the comparison. After the trace nothing is equal, so that Proxies left in caches are not found."""
        if self.tracer.is_over:
            return self is other
        return super().__eq__(other)

    def __repr__(self) -> str:
        """Returns a text that says that this is a Proxy."""
        return f"Proxy({type(self.amct_value).__name__})"

    def __str__(self) -> str:
        """Of a number that of the number."""
        value = self.amct_value
        if isinstance(value, (*_NUMBERS, torch.dtype, torch.device)):
            return str(self.tracer.ask("text", self, str(value)))
        return repr(self)

    def __format__(self, spec: str) -> str:
        """Of a number that of the number."""
        value = self.amct_value
        if isinstance(value, _NUMBERS):
            return str(self.tracer.ask("text", self, format(value, spec)))
        return format(str(self), spec)

    def __contains__(self, one: Any) -> bool:
        """Whether ``one`` is a key of a dict, or equal to an element."""
        if isinstance(self.amct_value, dict):
            return one in self.amct_value
        return any(part is one or bool(part == one) for part in self)

    def __iter__(self) -> Iterator[Any]:
        """Yields the keys of a dict, else the elements."""
        if isinstance(self.amct_value, dict):
            return iter(self.amct_value)
        # The length of a shape, tuple or list never changes; those of a tensor and of the parts into which it is cut
        # are read, and so become guards.
        is_read = isinstance(self.amct_value, Tensor) or self.tracer.has_open_count(self.node)
        count = len(self) if is_read else len(self.amct_value)
        elements: Any = self
        return iter([elements[index] for index in range(count)])

    def keys(self) -> Any:
        """Returns the keys of a dict, for `**`."""
        return self.amct_value.keys() if isinstance(self.amct_value, dict) else self.__getattr__("keys")()

    def __round__(self, digits: int | None = None) -> Any:
        """Records ``round``."""
        args = (self,) if digits is None else (self, digits)
        return self.tracer.create_proxy("call_function", builtins.round, args, {})

    def __floor__(self) -> Any:
        """Records ``math.floor``."""
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})

    def __ceil__(self) -> Any:
        """Records ``math.ceil``."""
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def __trunc__(self) -> Any:
        """Records ``math.trunc``."""
        return self.tracer.create_proxy("call_function", math.trunc, (self,), {})

    def __divmod__(self, other: Any) -> Any:
        """Records quotient and remainder."""
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        """Records quotient and remainder."""
        return other // self, other % self

    @classmethod
    def __torch_function__(cls, orig_method: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Records a call of torch."""
        return cls.amct_tracer_of(args, kwargs).record(orig_method, args, kwargs or {})

    @staticmethod
    def amct_tracer_of(args: Any, kwargs: Any) -> Any:
        """Returns the tracer of the Proxies among the arguments."""
        return proxies_in((args, kwargs or {}))[0].tracer


class GuidedAttribute(GuidedProxy):
    """``x.shape`` or another attribute; a method if it is called. Its node is made when it is used as a value."""

    def __init__(self, root: GuidedProxy, name: str, value: Any, is_device: bool) -> None:
        """``value`` is the value of the attribute."""
        super().__init__(None, root.tracer, value, is_device)
        self.amct_root = root
        self.amct_name = name

    def __getattr__(self, name: str) -> Any:
        """Returns the node, which is made if needed, or an attribute of the value."""
        if name == "node":
            attribute = self.tracer.create_proxy("call_function", getattr, (self.amct_root, self.amct_name), {})
            self.node = attribute.node
            return self.node
        if name in ("amct_root", "amct_name"):
            raise AttributeError(name)
        return super().__getattr__(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Records the call of a method."""
        return self.tracer.create_proxy("call_method", self.amct_name, (self.amct_root, *args), kwargs)


PROXY_TYPES = frozenset({GuidedProxy, GuidedAttribute})


def proxies_in(value: Any) -> list[GuidedProxy]:
    """Returns the guided Proxies in ``value``, in nested tuples, lists, dicts and slices."""
    found: list[GuidedProxy] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[GuidedProxy]) -> None:
    cls = type(value)
    if cls in PROXY_TYPES:
        found.append(value)
    elif cls in (tuple, list, torch.Size) or issubclass(cls, (tuple, list)):
        for one in value:
            _collect(one, found)
    elif cls is dict or issubclass(cls, dict):
        for one in value.values():
            _collect(one, found)
    elif cls is slice:
        for one in (value.start, value.stop, value.step):
            _collect(one, found)


def values_of(value: Any) -> Any:
    """Returns ``value`` with the example's values in place of guided Proxies; other objects are unchanged."""
    cls = type(value)
    if cls in PROXY_TYPES:
        return value.tracer.evaluator.as_seen(value.amct_value)
    if issubclass(cls, (tuple, list)):
        parts = [values_of(one) for one in value]
        if cls is torch.Size:
            return tuple(parts)
        return cls(*parts) if hasattr(value, "_fields") else cls(parts)
    if issubclass(cls, dict):
        return {values_of(key): values_of(one) for key, one in value.items()}
    if cls is TrainingFlag:
        return int(value) != 0  # C functions need a bool
    if cls is slice:
        return slice(*(values_of(one) for one in (value.start, value.stop, value.step)))
    return value


def _items(proxy: Any) -> list[tuple[Any, Any]]:
    return [(key, proxy[key]) for key in proxy.amct_value]


def _values(proxy: Any) -> list[Any]:
    return [proxy[key] for key in proxy.amct_value]


def _get(proxy: Any, key: Any, default: Any = None) -> Any:
    return proxy[key] if key in proxy.amct_value else default


_DICT_METHODS: dict[str, Callable[..., Any]] = {"items": _items, "values": _values, "get": _get}


def _is_same_tensor(value: Any, other: Any) -> bool:
    other = values_of(other)
    if not isinstance(value, Tensor) or not isinstance(other, Tensor):
        return False
    return value.shape == other.shape and value.untyped_storage()._cdata == other.untyped_storage()._cdata


def _augmented(in_place: Any, plain: Any) -> Any:
    def method(self: GuidedProxy, other: Any) -> Any:
        if isinstance(self.amct_value, Tensor):
            return record_in_place(self, in_place, plain, other)
        return plain(self, other)  # numbers and tuples never change

    return method


for _in_place, _plain in IN_PLACE_OPERATORS.items():
    setattr(GuidedProxy, f"__{_in_place.__name__}__", _augmented(_in_place, _plain))
