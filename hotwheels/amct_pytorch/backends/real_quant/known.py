"""Whether a called function belongs to torch or this package, or to the user (spec 10.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ...nn.call import MethodCall
from ...ops.desc import OpDesc
from ...ops.registry import Registry
from ..calls.autograd_call import AutogradCall
from ..calls.item_assignment import with_item

_KNOWN_PACKAGES = frozenset({"torch", "operator", "_operator", "builtins", "math", "hotwheels", "picovision"})
_CUSTOM_OPERATORS = "torch._ops."  # followed by a namespace of ``torch.ops``
_KNOWN_NAMESPACES = frozenset({"aten", "prim", "prims", "pico_ops"})


def is_known(function: object) -> bool:
    """Whether ``function`` (a function, module or MethodCall) is of torch, Python or this package, not of the user."""
    if isinstance(function, MethodCall):
        return True
    if isinstance(function, AutogradCall) or function is with_item:
        return False  # an AutogradCall runs the user's code; with_item is computed step by step
    source = type(function) if isinstance(function, nn.Module) else function
    module = getattr(source, "__module__", None) or "torch"  # C functions have none
    if module.startswith(_CUSTOM_OPERATORS):
        return module.removeprefix(_CUSTOM_OPERATORS) in _KNOWN_NAMESPACES
    return module.partition(".")[0] in _KNOWN_PACKAGES


def op_of(function: Callable[..., Any], registry: Registry) -> OpDesc | None:
    """Returns the description of ``function`` in the registry; None if it has none."""
    if isinstance(function, MethodCall):
        return registry.find_method(function.name)
    return registry.find_module(type(function)) if isinstance(function, nn.Module) else registry.find_function(function)
