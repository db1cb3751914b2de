"""Registry: the table of operations with the rows of the capacity file applied; finds operations by type."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch

from .. import custom_op
from ..capacity import ROWS, Capacity, read_capacity
from ..custom_op.discovery import is_registered_quantizable
from ..log import get_logger
from .desc import OpDesc, Role
from .table import TABLE

_log = get_logger(__name__)
# How similar a row's name is to a known one if it is taken for a misspelling; rows of other names are the user's own.
_SPELLING = 0.8
# Classes of the custom_op package which the shipped file lists by their bare name. Such a name means the class of
# that package, not any class of a user's model that happens to be called Max or Split.
_SHIPPED_CUSTOM_OPS = frozenset(custom_op.__all__) - {"CustomModuleBase", "register_custom_op"}


@dataclasses.dataclass(frozen=True)
class ModuleMatch:
    """The registry's entry for a module class.

    Attributes:
      type: Type string: the public path of the known class, which is the class itself or a base of it.
      op: The operation's description.
    """

    type: str
    op: OpDesc


class Registry:
    """All known operations with the settings of the capacity file. Immutable: make a new registry if the file changed.

    Only this class reads the rows of the file: settings of an operation are in its `OpDesc`, settings of ONNX nodes are
    methods here. So a row means the same on both paths.

    An extension (``Role.EXTENSION``, or ``Role.MATMUL`` if its ONNX type is MatMul) has no declared operands: every
    tensor argument of its call is an input.

    Args:
      capacity: The rows of the capacity file; None reads the installed file.
      with_fx_row: Whether the row FX_QUANT_TYPES counts; it does not on the dynamic path.
    """

    def __init__(self, capacity: Capacity | None = None, *, with_fx_row: bool = True) -> None:
        """Applies the rows of ``capacity`` to the table."""
        self._capacity = capacity = read_capacity() if capacity is None else capacity
        for row in capacity.extra:
            _warn_of_spelling(row, capacity.source)
        self._fx_names = frozenset(capacity.fx_quant_types if with_fx_row else ())
        self.descs = tuple(self._with_rows(desc, {*desc.capacity_names, *desc.modules}) for desc in TABLE)
        self.leaf_packages = capacity.leaf_module_packages
        known = {_class_name(path) for desc in TABLE for path in desc.modules}
        self._extensions = frozenset(capacity.no_weight_quant_types) - known - _SHIPPED_CUSTOM_OPS

    def is_cube(self, onnx_type: str) -> bool:
        """Whether the chip's matrix unit computes ONNX nodes of this type, so that they must be quantized."""
        return onnx_type in self._capacity.cube_onnx_types

    def is_no_command(self, onnx_type: str) -> bool:
        """Whether the chip executes nothing for ONNX nodes of this type."""
        return onnx_type in self._capacity.no_command_onnx_types

    def find_method(self, name: str) -> OpDesc | None:
        """Returns the operation of the Tensor method ``name``; None if it is not known."""
        return self._methods.get(name)

    def find_function(self, function: Callable[..., Any]) -> OpDesc | None:
        """Returns the operation of a function object, whatever its name in a trace; None if it is not known."""
        return self._functions.get(self.function_type(function))

    def function_type(self, function: Callable[..., Any]) -> str:
        """Returns the type string of any function: its public name if it is known, else its module and name."""
        return _FUNCTION_NAMES.get(_key(function)) or _own_path(function)

    def match_module(self, cls: type) -> ModuleMatch | None:
        """Returns the entry of ``cls`` or of its nearest known base class; None if there is none."""
        for base in cls.__mro__:
            for path in _public_paths(base):
                if path in self._modules:
                    return ModuleMatch(path, self._modules[path])
        return self._match_extension(cls)

    def find_module(self, cls: type | str) -> OpDesc | None:
        """Returns the operation of a module class, or of a module's type string; None if it is not known."""
        if isinstance(cls, str):
            return self._modules.get(cls)
        match = self.match_module(cls)
        return match.op if match else None

    def module_type(self, cls: type) -> str:
        """Returns the type string of any module class."""
        match = self.match_module(cls)
        return match.type if match else _own_path(cls)

    def is_leaf_type(self, cls: type) -> bool:
        """Whether a tracer must treat ``cls`` as one node: a custom operation, or an extension of the capacity file."""
        return issubclass(cls, custom_op.CustomModuleBase) or self._is_listed(cls)

    def is_fusable(self, cls: type) -> bool:
        """Whether the capacity file allows to fold ``cls`` into a convolution (row ``FUSE_TYPES``)."""
        match = self.match_module(cls)
        return match is not None and _class_name(match.type) in self._capacity.fuse_types

    def _match_extension(self, cls: type) -> ModuleMatch | None:
        is_custom_op = issubclass(cls, custom_op.CustomModuleBase) and self._is_listed_custom_op(cls)
        is_registered = is_registered_quantizable(cls)
        if not is_custom_op and not is_registered and not self._is_listed(cls):
            return None
        path = _own_path(cls)
        names = {cls.__name__, path}
        # The chip's rules for a product of two tensors (spec 5.4) hold for every spelling of the product.
        role = Role.MATMUL if getattr(cls, "onnx_type", None) == "MatMul" else Role.EXTENSION
        onnx_types = (str(getattr(cls, "onnx_type", "")),) if is_registered else ()
        op = OpDesc(name=cls.__name__, role=role, modules=(path,), operands=(), onnx_types=onnx_types)
        return ModuleMatch(path, dataclasses.replace(self._with_rows(op, names), is_listed=True))

    def _is_listed(self, cls: type) -> bool:
        return any(name in self._extensions for name in (cls.__name__, *_public_paths(cls)))

    def _is_listed_custom_op(self, cls: type) -> bool:
        return any(
            name in self._capacity.no_weight_quant_types
            for base in cls.__mro__
            for name in (base.__name__, *_public_paths(base))
        )

    def _with_rows(self, desc: OpDesc, names: set[str]) -> OpDesc:
        """Returns ``desc`` with the settings of the rows that hold one of ``names``."""
        rows = self._capacity
        role = desc.role
        if role in (Role.ACTIVATION, Role.FUSED_ACTIVATION):
            role = Role.FUSED_ACTIVATION if names.intersection(rows.fused_activation_types) else Role.ACTIVATION
        pairs = rows.pairs("QUANTIZABLE" if desc.has_weight else "NO_WEIGHT_QUANT")
        paired = tuple(onnx_type for torch_type, onnx_type in pairs if torch_type in names)
        return dataclasses.replace(
            desc,
            role=role,
            onnx_types=desc.onnx_types or paired,
            is_listed=bool(names & self._fx_names) or _has_one(desc, paired),
            is_default_enabled=not names.intersection(rows.not_default_quant_types),
            allows_channel_wise=desc.role in (Role.CONV, Role.CONV_TRANSPOSE)
            and _has_one(desc, tuple(onnx for torch_type, onnx in rows.pairs("CHANNEL_WISE") if torch_type in names)),
            has_shift=bool(names.intersection(rows.shift_n_types)),
        )

    @cached_property
    def _modules(self) -> Mapping[str, OpDesc]:
        """The descriptions by path of the class: of two classes of an operation, only one may be listed."""
        pairs = ((path, desc) for desc in self.descs for path in desc.modules)
        return _index((path, self._with_rows(desc, {path, _class_name(path)})) for path, desc in pairs)

    @cached_property
    def _functions(self) -> Mapping[str, OpDesc]:
        return _index((name, desc) for desc in self.descs for name in desc.functions)

    @cached_property
    def _methods(self) -> Mapping[str, OpDesc]:
        return _index((name, desc) for desc in self.descs for name in desc.methods)


def _has_one(desc: OpDesc, onnx_types: Sequence[str]) -> bool:
    """Whether ``desc`` is exported as one of ``onnx_types``; True for any type if the table has no type for it."""
    return any(not desc.onnx_types or one in desc.onnx_types for one in onnx_types)


def _index(pairs: Iterable[tuple[str, OpDesc]]) -> Mapping[str, OpDesc]:
    found: dict[str, OpDesc] = {}
    for name, desc in pairs:
        assert name not in found, f"'{name}' is spelled twice in the table."
        found[name] = desc
    return MappingProxyType(found)


def _class_name(path: str) -> str:
    return path.rpartition(".")[2]


def _own_path(thing: Any) -> str:
    """Returns the dotted path of a class or function: ``torch.name`` if torch has that name, else its own path."""
    name = getattr(thing, "__name__", "")
    if callable(thing) and getattr(torch, name, None) is thing:  # its own path may name a private module
        return f"torch.{name}"
    module = getattr(thing, "__module__", None) or "torch"
    module = "operator" if module == "_operator" else module
    return f"{module}.{getattr(thing, '__qualname__', type(thing).__name__)}"


def _public_paths(cls: type) -> Iterable[str]:
    """Yields the paths that may be public: the class name in its module, and in each package around the module."""
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


@functools.cache
def _warn_of_spelling(row: str, source: str) -> None:
    """Warns, once in a process, of a row in the file ``source`` whose name is nearly that of a known row."""
    near = difflib.get_close_matches(row.upper(), ROWS, n=1, cutoff=_SPELLING)
    if near:
        _log.warning("%s: row '%s' has no effect. Did you mean '%s'?", source, row, near[0])
