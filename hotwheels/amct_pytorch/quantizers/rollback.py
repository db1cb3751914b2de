"""Rollback: undoes the changes of a forward that raises.

Repeating that forward then gives the same result as an undisturbed run, whatever stopped it: too little memory, a bad
batch, Ctrl-C.
"""

from __future__ import annotations

import contextlib
import copy
import types
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .module_walk import all_modules

_REGISTRIES = ("_parameters", "_buffers")
# Values that cannot change, and those that are kept as they are: copying a method would copy its object too.
_UNCHANGED = (int, float, str, type(None), type, torch.dtype, types.MethodType, types.FunctionType, nn.Module)
_PLAIN = frozenset({int, float, bool, str, type(None)})
_OF_MODULES = frozenset({*_REGISTRIES, "_modules", "_non_persistent_buffers_set"})  # attributes that `_Tensors` keeps
_NUMBERS = frozenset({torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool})
_FEW = 8
_CONTAINERS = frozenset({dict, OrderedDict, list, set})


@contextlib.contextmanager
def all_or_nothing(
    quantizers: Iterable[nn.Module] = (), modules: Iterable[nn.Module] = (), objects: Iterable[Any] = ()
) -> Iterator[None]:
    """Restores the present state of the arguments if the block raises.

    Args:
      quantizers: All of their state is restored, including modules inside and objects in their attributes.
      modules: Their parameters and buffers are restored, and their attributes refer to the same objects again.
      objects: Their attributes refer to the same objects again; changes inside those objects remain.
    """
    saved: list[_Tensors | _Attributes] = []
    for quantizer in quantizers:
        for module in all_modules(quantizer):
            saved += (_Tensors(module), _Attributes(module, is_deep=True))
    for module in modules:
        saved += (_Tensors(module), _Attributes(module))
    saved += (_Attributes(one) for one in objects)
    try:
        yield
    except BaseException:
        for one in saved:
            one.restore()
        raise


class _Tensors:
    """The parameters and buffers of one module, by name, with their values."""

    def __init__(self, module: nn.Module) -> None:
        state = module.__dict__
        self._registries = [(state[name], dict(state[name])) for name in _REGISTRIES]
        tensors = [one for _, names in self._registries for one in names.values() if one is not None]
        self._values = [(one, _value_of(one), one.requires_grad) for one in tensors]

    @torch.no_grad()
    def restore(self) -> None:
        for registry, names in self._registries:
            registry.clear()
            registry.update(names)
        for tensor, kept, requires_grad in self._values:
            value = kept if isinstance(kept, Tensor) else torch.tensor(kept, dtype=tensor.dtype, device=tensor.device)
            if tensor.shape != value.shape:  # an observer of torch resizes its buffers in place
                tensor.resize_(value.shape)
            tensor.copy_(value)
            if tensor.is_leaf:
                tensor.requires_grad_(requires_grad)


def _value_of(tensor: Tensor) -> Any:
    """Returns a copy of ``tensor``, as Python numbers if it is small, which takes a third of the time."""
    if tensor.dim() < 2 and tensor.is_cpu and tensor.dtype in _NUMBERS and tensor.numel() <= _FEW:
        return tensor.tolist()
    return tensor.detach().clone()


class _Attributes:
    """The attributes of one object, without parameters, buffers and submodules."""

    def __init__(self, owner: Any, *, is_deep: bool = False) -> None:
        """With ``is_deep`` the attributes are copied, since the objects themselves may change."""
        self._owner, kept = owner, dict(vars(owner))
        for name in _left_out(owner):
            kept.pop(name, None)
        if is_deep:
            for name, one in kept.items():
                if type(one) not in _PLAIN:
                    kept[name] = _copied(one)
        self._kept = kept

    def restore(self) -> None:
        attributes = vars(self._owner)
        for name in attributes.keys() - _left_out(self._owner):
            del attributes[name]
        attributes.update(self._kept)


def _left_out(owner: Any) -> frozenset[str]:
    return _OF_MODULES if isinstance(owner, nn.Module) else frozenset()


def _copied(value: Any) -> Any:
    kind = type(value)
    if kind in _CONTAINERS and not value:  # the many empty dicts of hooks
        return kind()
    if isinstance(value, _UNCHANGED):
        return value
    try:
        return copy.deepcopy(value)
    except (TypeError, RuntimeError):  # an object that cannot be copied is kept itself
        return value
