"""Copies a model so that nothing in the copy runs the original, not even a forward set as a lambda."""

from __future__ import annotations

import copy
import types
from typing import Any

from torch import Tensor, nn

from ....log import get_logger

_log = get_logger(__name__)


def copy_model(model: nn.Module) -> nn.Module:
    """Returns a deep copy of ``model``; the model itself, with a WARNING, where that is impossible (spec 3)."""
    memo = _detached(model)
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:  # a user's __deepcopy__ runs here, and it may raise anything
        _log.warning(
            "The model %s cannot be copied (%s: %s), so it is worked on directly and will be changed. Tensors which are"
            " results of a computation and stored on the model are the usual reason: detach them.",
            type(model).__name__, type(error).__name__, error,
        )  # fmt: skip
        return model
    _rebind_functions(copied, memo)
    return copied


def _detached(model: nn.Module) -> dict[int, Any]:
    """Copies, by id, of the results of computations stored on modules, such as the weight of a weight_norm."""
    values = (value for module in model.modules() for value in vars(module).values())
    results = [value for value in values if isinstance(value, Tensor) and value.grad_fn is not None]
    return {id(value): value.detach().clone() for value in results}


def _rebind_functions(copied: nn.Module, memo: dict[int, Any]) -> None:
    """Functions are not copied by deepcopy: those stored on a module still hold the modules of the original."""
    for module in copied.modules():
        holders: tuple[Any, ...] = (vars(module), module._forward_hooks, module._forward_pre_hooks)
        for holder in holders:
            for name, value in list(holder.items()):
                if isinstance(value, types.FunctionType) and value.__closure__:
                    holder[name] = _rebound(value, memo)


def _rebound(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    cells = tuple(_copied_cell(cell, memo) for cell in function.__closure__ or ())
    rebound = types.FunctionType(function.__code__, function.__globals__, function.__name__, closure=cells)
    rebound.__defaults__, rebound.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    rebound.__dict__.update(function.__dict__)
    return rebound


def _copied_cell(cell: types.CellType, memo: dict[int, Any]) -> types.CellType:
    try:
        content = cell.cell_contents
    except ValueError:  # not assigned yet
        return cell
    if isinstance(content, types.FunctionType) and content.__closure__:
        return types.CellType(_rebound(content, memo))
    is_of_model = isinstance(content, nn.Module | Tensor) and id(content) in memo
    is_method_of_model = isinstance(content, types.MethodType) and id(content.__self__) in memo
    return types.CellType(copy.deepcopy(content, memo)) if is_of_model or is_method_of_model else cell
