"""Constants: tensors that a model computes from its parameters and buffers only; exported files hold their values.

They are evaluated in float32, before the export and in real_quant. The exporter alone would fold some of these
operations in float32 and leave others to the runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...torch_private import pytree
from ...torch_torchscript import not_tracing
from ..real_quant.known import is_known
from .function_names import is_in_place_name
from .item_assignment import place_of, with_places

_IN_PLACE_OPERATORS = frozenset(
    {"__setitem__", "__iadd__", "__isub__", "__imul__", "__imatmul__", "__itruediv__", "__ifloordiv__", "__imod__"}
    | {"__ipow__", "__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__"}
)


class Constants:
    """The constant tensors of one forward of ``model``."""

    def __init__(self, model: nn.Module) -> None:
        self._known = {id(one): one for one in (*model.parameters(), *model.buffers())}  # kept, so ids stay unique

    def evaluate(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any] | None:
        """Returns a tuple with ``func``'s result on constants; None if ``func`` reads other tensors, or changes one."""
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not tensors or not all(id(one) in self._known for one in tensors):
            return None
        if not is_known(func) or changes_in_place(func, kwargs):
            return None
        with torch.no_grad():
            result = pytree.tree_map(self._detached, func(*args, **kwargs))
        self._known.update({id(leaf): leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)})
        return (result,)

    def place(self, mask: Tensor, axis: int) -> Tensor:
        """Returns `place_of` a mask that is a constant; the mask itself if it is none."""
        if id(mask) not in self._known:
            return mask
        found = place_of(mask, axis)
        self._known[id(found)] = found
        return found

    def _detached(self, leaf: Any) -> Any:
        """Returns ``leaf`` detached: a view of a parameter requires a gradient, but constants of a trace must not."""
        return leaf.detach() if isinstance(leaf, Tensor) and id(leaf) not in self._known else leaf


class ConstantsBeforehand(TorchFunctionMode):
    """While this mode is active, constants are computed outside of the trace, which then holds their values."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._constants = Constants(model)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs ``func``."""
        with not_tracing():
            constant = self._constants.evaluate(func, args, kwargs or {})
            if constant is None and getattr(func, "__name__", "") == "__getitem__":
                args = (args[0], with_places(args[1], self._constants.place))
        return func(*args, **(kwargs or {})) if constant is None else constant[0]


def changes_in_place(func: Callable[..., Any], kwargs: dict[str, Any]) -> bool:
    """Whether the torch function ``func`` changes its first argument, or writes into an argument ``out``."""
    name = getattr(func, "__name__", "")
    is_asked = bool(kwargs.get("inplace")) or kwargs.get("out") is not None
    return is_asked or name in _IN_PLACE_OPERATORS or is_in_place_name(name)
