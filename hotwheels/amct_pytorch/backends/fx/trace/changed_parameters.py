"""Refuses changes of parameters that a trace cannot record.

Code such as ``for p in self.parameters(): p.data.clamp_(-1, 1)`` has the tensors themselves, not Proxies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.fx.proxy import TraceError

from ...calls.constant_calls import changes_in_place
from ...user_model.written_parameters import PARAMETER_CHANGED


def memory_of_parameters(root: nn.Module) -> dict[int, str]:
    """Returns the names of the parameters of ``root`` by the identity of their memory."""
    named = root.named_parameters()
    return {_memory(one): name for name, one in named if one.layout is torch.strided and one.numel()}


def refuse_change(
    parameters: Mapping[int, str], function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Raises TraceError if the call, of real tensors, would change one of `memory_of_parameters`."""
    is_assignment = getattr(function, "__name__", "") == "__set__"  # p.data = ...
    if not is_assignment and not changes_in_place(function, kwargs):
        return
    target = kwargs["out"] if kwargs.get("out") is not None else next(iter((*args, *kwargs.values())), None)
    if not isinstance(target, Tensor) or isinstance(target, Proxy) or target.layout is not torch.strided:
        return
    name = parameters.get(_memory(target))
    if name is not None:
        raise TraceError(f"{PARAMETER_CHANGED} '{name}', which it has not read as an attribute of a module")


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
