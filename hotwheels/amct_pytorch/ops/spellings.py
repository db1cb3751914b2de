"""Spellings: the names of an operation that users write in a configuration, and the types of nodes that they mean.

A type string (spec 8.3) is one spelling: ``torch.nn.Conv2d`` a module, ``operator.add`` a function, ``add`` a method.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from .. import custom_op
from .registry import Registry
from .table import TABLE

_FUNCTIONAL, _OURS = "torch.nn.functional.", "hotwheels.amct_pytorch.nn."
# Beginnings of names as usual import statements give them, longer beginnings first.
_BEGINNINGS = {
    "torch.nn.functional.": _FUNCTIONAL,
    "nn.functional.": _FUNCTIONAL,
    "functional.": _FUNCTIONAL,
    "F.": _FUNCTIONAL,
    "nn.": "torch.nn.",
    "hotwheels.amct_pytorch.nn.modules.": _OURS,
    "amct.nn.modules.": _OURS,
    "amct.nn.": _OURS,
    "amct_nn.": _OURS,
    "picovision.nn.": _OURS,
    "pico_nn.": _OURS,
}
_METHODS = ("Tensor.", "torch.Tensor.")
_CUSTOM_OPS = ("amct.", "hotwheels.amct_pytorch.")
# The method or function that torch.fx records for some functions, because they call it.
_RECORDED_AS = {
    "torch.nn.functional.sigmoid": "sigmoid",
    "torch.nn.functional.tanh": "tanh",
    "torch.nn.functional.upsample": "torch.nn.functional.interpolate",
}


@functools.lru_cache(maxsize=4096)
def types_called(name: str) -> frozenset[str]:
    """Returns the type strings that ``name`` means; empty if it is no spelling of an operation of the table.

    ``Conv2d``, ``nn.Conv2d`` and ``torch.nn.Conv2d`` mean the module; ``Tensor.add`` and ``add`` the method;
    ``F.sigmoid`` means also the method, which torch.fx records for it.
    """
    method = next((name.removeprefix(start) for start in _METHODS if name.startswith(start)), name)
    if method in _methods():
        return frozenset({method})
    start = next((start for start in _BEGINNINGS if name.startswith(start)), "")
    path = f"{_BEGINNINGS[start]}{name.removeprefix(start)}" if start else name
    found = {path} if path in _paths() else set(_classes().get(path, ()))
    if not found and path.startswith("torch."):
        found = _types_of(_attribute_of_torch(path)) & _paths()
    found |= {_RECORDED_AS[one] for one in found & _RECORDED_AS.keys()}
    found |= {f"operator.{one.removeprefix('operator.i')}" for one in found if one.startswith("operator.i")}
    return frozenset(found)


def is_custom_op(path: str, name: str) -> bool:
    """Whether ``name`` means the class ``path``, which is not in the table: ``EltwiseAdd``, ``amct.EltwiseAdd``."""
    bare = next((name.removeprefix(start) for start in _CUSTOM_OPS if name.startswith(start)), name)
    return path not in _paths() | _methods() and path.rpartition(".")[2] == bare


def is_known(name: str) -> bool:
    """Whether ``name`` is a spelling of an operation, an ONNX type or an extension module, in the model or not."""
    bare = name.rpartition(".")[2]
    return bool(types_called(name)) or name in onnx_types() or (is_custom_op(bare, name) and bare in custom_op.__all__)


@functools.cache
def known_names() -> tuple[str, ...]:
    """Returns the names that a hint may suggest: type strings, class names, ONNX types."""
    return tuple(dict.fromkeys((*sorted(_paths()), *sorted(_methods()), *_classes(), *sorted(onnx_types()))))


@functools.cache
def onnx_types() -> frozenset[str]:
    """Returns the ONNX types of the table."""
    return frozenset(one for desc in TABLE for one in desc.onnx_types)


@functools.cache
def may_become(onnx_type: str) -> frozenset[str]:
    """Returns the names of operations that may be exported as ``onnx_type``; none if it is usual for another."""
    usual = {desc.onnx_types[0] for desc in TABLE if desc.onnx_types}
    return frozenset(desc.name for desc in TABLE if onnx_type in desc.onnx_types and onnx_type not in usual)


@functools.cache
def _paths() -> frozenset[str]:
    return frozenset(path for desc in TABLE for path in (*desc.modules, *desc.functions))


@functools.cache
def _methods() -> frozenset[str]:
    return frozenset(name for desc in TABLE for name in desc.methods)


@functools.cache
def _classes() -> Mapping[str, tuple[str, ...]]:
    """Returns the paths of the module classes by bare name; two packages have a GELU and a LayerNorm."""
    found: dict[str, tuple[str, ...]] = {}
    for path in (path for desc in TABLE for path in desc.modules):
        name = path.rpartition(".")[2]
        found[name] = (*found.get(name, ()), path)
    return MappingProxyType(found)


@functools.cache
def _registry() -> Registry:
    return Registry()


def _attribute_of_torch(path: str) -> Any | None:
    """Returns the member ``path`` of torch, without any import; None if there is none."""
    found: Any = torch
    for name in path.split(".")[1:]:
        found = getattr(found, name, None)
    return found


def _types_of(thing: Any) -> set[str]:
    if isinstance(thing, type):
        match = _registry().match_module(thing)
        return {match.type} if match else set()
    return {_registry().function_type(thing)} if callable(thing) else set()
