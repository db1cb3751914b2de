"""Registry: the table of operations with the rows of the capacity file applied, asked by type."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol

import torch

from .. import custom_op
from .desc import OpDesc, Role
from .table import TABLE

# Classes of the custom_op package which the shipped file lists by their bare name. Such a name means the class of
# that package, not any class of a user's model that happens to be called Max or Split.
_SHIPPED_CUSTOM_OPS = frozenset(custom_op.__all__) - {"CustomModuleBase", "register_custom_op"}

_DEFAULT_LEAF_PACKAGES = ("torch.nn", "hotwheels.amct_pytorch.nn", "picovision.nn")


class CapacityRows(Protocol):
    """What the registry needs of the capacity file."""

    def list(self, row: str) -> tuple[str, ...]:
        """Returns the values of the row of that name."""


@dataclasses.dataclass(frozen=True)
class ModuleMatch:
    """What the registry knows of a module class.

    Attributes:
      type: Type string: the public path of the known class, which is a base of the class asked for or that class.
      op: Its description.
    """

    type: str
    op: OpDesc


class Registry:
    """All known operations. Immutable; make a new one when the capacity file may have changed.

    An extension (``Role.EXTENSION``, or ``Role.MATMUL`` if its ONNX type is MatMul) has no declared operands: every
    tensor argument of its call is an input.

    Args:
      capacity: The rows of the capacity file; None for the table as it is shipped.
    """

    def __init__(self, capacity: CapacityRows | None = None) -> None:
        """Applies the rows of ``capacity`` to the shipped table."""
        self.descs = TABLE if capacity is None else tuple(_with_rows(desc, capacity) for desc in TABLE)
        self.leaf_packages = _DEFAULT_LEAF_PACKAGES if capacity is None else capacity.list("LEAF_MODULE_PACKAGES")
        listed = () if capacity is None else capacity.list("NO_WEIGHT_QUANT_TYPES")
        known = {_class_name(path) for desc in self.descs for path in desc.modules}
        self._custom_ops = _SHIPPED_CUSTOM_OPS if capacity is None else frozenset(listed)
        self._extensions = frozenset(listed) - known - _SHIPPED_CUSTOM_OPS
        self._fusable = frozenset(_fuse_names(self.descs) if capacity is None else capacity.list("FUSE_TYPES"))
        self._not_default = frozenset(() if capacity is None else capacity.list("NOT_DEFAULT_QUANT_TYPES"))

    def find_method(self, name: str) -> OpDesc | None:
        """Returns the operation of the Tensor method ``name``."""
        return self._methods.get(name)

    def find_function(self, function: Callable[..., Any]) -> OpDesc | None:
        """Returns the operation of a function object, under whatever name a trace recorded it."""
        return self._functions.get(self.function_type(function))

    def function_type(self, function: Callable[..., Any]) -> str:
        """Returns the type string of any function: its public name if it is known, else where it says it lives."""
        return _FUNCTION_NAMES.get(_key(function)) or _own_path(function)

    def match_module(self, cls: type) -> ModuleMatch | None:
        """Returns what is known of ``cls`` or of its nearest known base class."""
        for base in cls.__mro__:
            for path in _public_paths(base):
                if path in self._modules:
                    return ModuleMatch(path, self._modules[path])
        return self._match_extension(cls)

    def find_module(self, cls: type | str) -> OpDesc | None:
        """Returns the operation of a module class, or of a module's type string."""
        if isinstance(cls, str):
            return self._modules.get(cls)
        match = self.match_module(cls)
        return match.op if match else None

    def module_type(self, cls: type) -> str:
        """Returns the type string of any module class."""
        match = self.match_module(cls)
        return match.type if match else _own_path(cls)

    def is_leaf_type(self, cls: type) -> bool:
        """Whether a tracer must not look into ``cls`` because it is an operation of its own, wherever it is defined."""
        return issubclass(cls, custom_op.CustomModuleBase) or self._is_listed(cls)

    def is_fusable(self, cls: type) -> bool:
        """Whether the capacity file allows to fold ``cls`` into a convolution (row ``FUSE_TYPES``)."""
        match = self.match_module(cls)
        return match is not None and _class_name(match.type) in self._fusable

    def _match_extension(self, cls: type) -> ModuleMatch | None:
        is_custom_op = issubclass(cls, custom_op.CustomModuleBase) and self._is_listed_custom_op(cls)
        if not is_custom_op and not self._is_listed(cls):
            return None
        path = _own_path(cls)
        is_default = not self._not_default & {cls.__name__, path}
        # The chip's rules for a product of two tensors (spec 5.4) hold however it is spelled.
        role = Role.MATMUL if getattr(cls, "onnx_type", None) == "MatMul" else Role.EXTENSION
        op = OpDesc(name=cls.__name__, role=role, modules=(path,), operands=(), is_default_enabled=is_default)
        return ModuleMatch(path, op)

    def _is_listed(self, cls: type) -> bool:
        return any(name in self._extensions for name in (cls.__name__, *_public_paths(cls)))

    def _is_listed_custom_op(self, cls: type) -> bool:
        return any(name in self._custom_ops for base in cls.__mro__ for name in (base.__name__, *_public_paths(base)))

    @cached_property
    def _modules(self) -> Mapping[str, OpDesc]:
        return _index((path, desc) for desc in self.descs for path in desc.modules)

    @cached_property
    def _functions(self) -> Mapping[str, OpDesc]:
        return _index((name, desc) for desc in self.descs for name in desc.functions)

    @cached_property
    def _methods(self) -> Mapping[str, OpDesc]:
        return _index((name, desc) for desc in self.descs for name in desc.methods)


def _with_rows(desc: OpDesc, capacity: CapacityRows) -> OpDesc:
    """Returns ``desc`` as the capacity file wants it; rows name module classes, and mean all spellings of the op."""
    names = {_class_name(path) for path in desc.modules} | set(desc.modules)
    role = desc.role
    if role in (Role.ACTIVATION, Role.FUSED_ACTIVATION):
        is_fused = bool(names & set(capacity.list("FUSED_ACTIVATION_TYPES")))
        role = Role.FUSED_ACTIVATION if is_fused else Role.ACTIVATION
    is_default = not names & set(capacity.list("NOT_DEFAULT_QUANT_TYPES"))
    return dataclasses.replace(desc, role=role, is_default_enabled=is_default)


def _fuse_names(descs: Iterable[OpDesc]) -> set[str]:
    return {_class_name(path) for desc in descs if desc.role is Role.BATCH_NORM for path in desc.modules}


def _index(pairs: Iterable[tuple[str, OpDesc]]) -> Mapping[str, OpDesc]:
    found: dict[str, OpDesc] = {}
    for name, desc in pairs:
        assert name not in found, f"'{name}' is spelled twice in the table."
        found[name] = desc
    return MappingProxyType(found)


def _class_name(path: str) -> str:
    return path.rpartition(".")[2]


def _own_path(thing: Any) -> str:
    """Returns the dotted path of a class or function: its name in ``torch``, if it has one, else its own."""
    name = getattr(thing, "__name__", "")
    if callable(thing) and getattr(torch, name, None) is thing:  # its own path may be that of a private module
        return f"torch.{name}"
    module = getattr(thing, "__module__", None) or "torch"
    module = "operator" if module == "_operator" else module
    return f"{module}.{getattr(thing, '__qualname__', type(thing).__name__)}"


def _public_paths(cls: type) -> Iterable[str]:
    """Yields every path that may be the public one: the class lives in that package or below it."""
    parts = cls.__module__.split(".")
    for length in range(len(parts), 0, -1):
        yield ".".join((*parts[:length], cls.__qualname__))


def _key(function: Any) -> int:
    # By identity: some callables that FX records are unhashable, and C functions compare equal by name only.
    return id(function)


def _resolve(path: str) -> Any | None:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name, None)


def _function_names() -> Mapping[int, str]:
    """Maps every function object of the table to its type string; the first name of an object wins."""
    found: dict[int, str] = {}
    for path in (name for desc in TABLE for name in desc.functions):
        function = _resolve(path)
        if function is not None:
            found.setdefault(_key(function), path)
    return MappingProxyType(found)


_FUNCTION_NAMES = _function_names()
