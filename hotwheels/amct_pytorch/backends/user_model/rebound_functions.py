"""Functions on a copied model, which still refer to the original's modules, since deepcopy copies no functions."""

from __future__ import annotations

import copy
import types
from typing import Any

from torch import Tensor, nn


def rebind_functions(copied: nn.Module, memo: dict[int, Any]) -> None:
    """Makes forwards, other functions and hooks on the modules of ``copied`` refer to copies of their objects.

    ``memo`` is the memo of the ``copy.deepcopy`` that made ``copied``.
    """
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
