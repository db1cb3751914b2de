"""What a model computes from its parameters and buffers only: a constant of every exported file.

It is evaluated in float32 on both sides, before it is exported and in real_quant. The exporter by itself would fold
some of its operations in float32, and leave others to the runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..torch_private import not_tracing, pytree
from .real_quant.known import is_known

_IN_PLACE_OPERATORS = frozenset(
    {"__setitem__", "__iadd__", "__isub__", "__imul__", "__imatmul__", "__itruediv__", "__ifloordiv__", "__imod__"}
    | {"__ipow__", "__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__"}
)


class Constants:
    """The constant tensors of one forward of ``model``."""

    def __init__(self, model: nn.Module) -> None:
        self._known = {id(one): one for one in (*model.parameters(), *model.buffers())}  # kept, so that ids stay theirs

    def evaluate(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any] | None:
        """Returns, in a tuple, what ``func`` makes of constants; None if it takes other tensors, or changes one."""
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not tensors or not all(id(one) in self._known for one in tensors):
            return None
        if not is_known(func) or changes_in_place(func, kwargs):
            return None
        with torch.no_grad():
            result = pytree.tree_map(self._detached, func(*args, **kwargs))
        self._known.update({id(leaf): leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)})
        return (result,)

    def _detached(self, leaf: Any) -> Any:
        """A view of a parameter requires a gradient, which no constant of a trace may."""
        return leaf.detach() if isinstance(leaf, Tensor) and id(leaf) not in self._known else leaf


class ConstantsBeforehand(TorchFunctionMode):
    """While the model is traced constants are computed outside of the trace, which then holds their values."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._constants = Constants(model)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs ``func``."""
        with not_tracing():
            constant = self._constants.evaluate(func, args, kwargs or {})
        return func(*args, **(kwargs or {})) if constant is None else constant[0]


def changes_in_place(func: Callable[..., Any], kwargs: dict[str, Any]) -> bool:
    """Whether ``func``, of torch, changes its first argument, or one that it is given for its result."""
    name = getattr(func, "__name__", "")
    return (
        name in _IN_PLACE_OPERATORS
        or (name.endswith("_") and not name.endswith("__"))
        or bool(kwargs.get("inplace") or kwargs.get("out") is not None)
    )
