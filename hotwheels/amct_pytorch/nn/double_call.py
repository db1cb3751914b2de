"""Calls an operation in float64, as real_quant does for every operation that is not a CUBE operation (spec 10.4)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..core.accumulator import Deferred, Sum
from ..ops.desc import OpDesc, Role
from ..torch_private import pytree
from .exported_form import as_exported

CLAMPS = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}  # by their names in the registry
_NUMBERS = frozenset({int, float, bool, str, type(None)})  # leaves of a tree, like tensors


def cast_floats(tree: Any, dtype: torch.dtype) -> Any:
    """Returns ``tree`` with every floating tensor converted to a plain tensor of ``dtype``; other leaves unchanged."""
    return _mapped(lambda leaf: _cast(leaf, dtype), tree)


def call_in_double(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], op: OpDesc | None = None
) -> Any:
    """Returns ``function(*args, **kwargs)`` with all floating tensors, and a module's own state, in float64.

    Python floats (scalar operands, a module's slopes and epsilons) are rounded to float32, the value in the exported
    file. Only the floats of a movement ``op`` are not: they are factors of a size, which torch itself computes in
    float64. A function with a method ``in_double`` computes in float64 by itself: that method is called instead.
    """
    in_double = getattr(function, "in_double", None)
    if in_double is not None:
        return in_double(*args, **kwargs)
    args, kwargs = cast_floats((args, kwargs), torch.float64)
    is_rounded = op is None or op.role is not Role.MOVEMENT
    if is_rounded and any(isinstance(leaf, Tensor) for leaf in leaves_of((args, kwargs))):
        args, kwargs = _mapped(_single, (args, kwargs))
    if op is not None and op.role is Role.ELEMENTWISE:
        args, kwargs = _with_wide_numbers(args, kwargs)
    function = as_exported(function)
    if not isinstance(function, nn.Module):
        return function(*args, **kwargs)
    module = _with_single_attributes(function) if is_rounded else function
    if not (function._parameters or function._buffers or function._modules):
        return module(*args, **kwargs)
    # Copies, since a training BatchNorm counts its batches in place, and the forward for the gradients counts them too.
    buffers = {name: buffer.clone() for name, buffer in function.named_buffers()}
    state = {**dict(function.named_parameters()), **buffers}
    return functional_call(module, cast_floats(state, torch.float64), args, kwargs)


def defer(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], op: OpDesc | None = None
) -> Deferred | None:
    """Returns the deferred result of `call_in_double` for a fused activation on a deferred ``args[0]``; else None."""
    if op is None or op.role is not Role.FUSED_ACTIVATION or not args or not isinstance(args[0], Deferred):
        return None
    x, *rest = args
    made = Deferred.by(x.carrier, lambda at: call_in_double(function, (x.part(at), *rest), kwargs, op))
    ends = CLAMPS.get(op.name)
    if ends is not None:
        made.may_be_nan = x.may_be_nan
        made.form = x.form.clamped(ends) if isinstance(x.form, Sum) else None
    return made


def _with_wide_numbers(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments with float64 scalars for Python floats, if all tensors among them are integers.

    The result of an integer tensor and a Python float would be of torch's default type, float32.
    """
    tensors = [leaf for leaf in leaves_of((args, kwargs)) if isinstance(leaf, Tensor)]
    if not tensors or any(tensor.is_floating_point() for tensor in tensors):
        return args, kwargs
    device = tensors[0].device

    def wide(leaf: Any) -> Any:
        return torch.tensor(leaf, dtype=torch.float64, device=device) if type(leaf) is float else leaf

    widened: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(wide, (args, kwargs))
    return widened


def _with_single_attributes(module: nn.Module) -> nn.Module:
    """Returns a shallow copy of ``module``, which shares its parameters, with float attributes rounded to float32."""
    changed = {name: _single(value) for name, value in vars(module).items() if isinstance(value, float)}
    if not changed:
        return module
    module = copy.copy(module)
    vars(module).update(changed)
    return module


def _single(leaf: Any) -> Any:
    return torch.tensor(leaf, dtype=torch.float64).float().item() if type(leaf) is float else leaf


def _mapped(change: Callable[[Any], Any], tree: Any) -> Any:
    """Returns ``pytree.tree_map(change, tree)``; plain tuples, lists and dicts are walked here, ten times as fast."""
    kind = type(tree)
    if kind is tuple or kind is list:
        return kind([_mapped(change, one) for one in tree])
    if kind is dict:
        return {key: _mapped(change, one) for key, one in tree.items()}
    return change(tree) if isinstance(tree, Tensor) or kind in _NUMBERS else pytree.tree_map(change, tree)


def leaves_of(tree: Any) -> list[Any]:
    """Returns all leaves of the arguments ``tree``."""
    leaves: list[Any] = []
    _mapped(leaves.append, tree)
    return leaves


def _cast(leaf: Any, dtype: torch.dtype) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return (leaf.whole() if isinstance(leaf, Deferred) else leaf.as_subclass(Tensor)).to(dtype)
    return leaf
