"""Short names of torch's functions: ``add`` for torch.add and Tensor.add_, ``F.relu``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch.overrides import resolve_name

from ...torch_private import is_kernel


@functools.lru_cache(maxsize=1024)  # torch's look-up of a name changes the filters of warnings each time
def name_of(function: Callable[..., Any]) -> str:
    """Returns the name of ``function`` in the tables of writers; in-place forms have that of the out-of-place form."""
    path = resolve_name(function) or _own_path(function)
    home, _, name = path.rpartition(".")
    if name == "__get__":
        home, _, name = home.rpartition(".")
    if is_in_place_name(name):
        name = name[:-1]
    if home in ("torch.nn.functional", "torch._C._nn"):
        return f"F.{name}"
    if home in _PLAIN_HOMES:
        return _IN_PLACE_OPERATORS.get(name, name)
    return f"{home.removeprefix('torch.')}.{name}" if home else name


def is_in_place_name(name: str) -> bool:
    """Whether functions of this name change their first argument: ``add_``, but not ``__add__``."""
    return name.endswith("_") and not name.endswith("__")


def _own_path(function: Callable[..., Any]) -> str:
    """Returns the path of a function that the table cannot find by identity: kernels of torch, ``torch.ops``."""
    name = str(getattr(function, "__qualname__", function))
    return f"torch._C._nn.{name}" if is_kernel(name, function) else name


_PLAIN_HOMES = frozenset({"torch", "torch.Tensor", "torch.functional", "torch._C._VariableFunctions"})
_IN_PLACE_OPERATORS = {
    "__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "true_divide", "__idiv__": "true_divide",
    "__ifloordiv__": "__floordiv__", "__ipow__": "__pow__", "__imod__": "remainder",
}  # fmt: skip
