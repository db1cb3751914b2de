"""real_quant of what has no graph, a whole model or a function of a user: it is seen as it is called (spec 10.4).

Between the layers all floating tensors are plain float64 ones, so that whatever a model does with them works: views,
changes in place, item assignment, scripted functions. Where such a tensor stands for something more exact - the
integers of a CUBE operation, or a float32 that is divided in float32 - it carries the exact form along until a call
changes the value.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...core.accumulator import Accumulator, Deferred
from ...log import get_logger
from ...nn.call import MethodCall
from ...nn.double_call import cast_floats
from ...torch_private import pytree, version_of, with_torch_function, without_torch_function
from ..constant_calls import Constants, changes_in_place
from .between_layers import BetweenLayers
from .recurrent import recurrent_in_double

_log = get_logger(__name__)
_ORIGIN = "_amct_origin"
# What makes new memory, so that a change of the result in place is none of the original.
_COPIES = frozenset({"clone", "contiguous", "double", "half", "bfloat16"})
_PROPERTY = "__get__"


@dataclasses.dataclass(frozen=True)
class _Origin:
    """What a float64 tensor stands for as long as it has this version: an `Accumulator` or a float32 tensor."""

    exact: Tensor
    version: int


def run_real_quant(model: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns ``forward(*args, **kwargs)`` of ``model`` in float32; its quantized layers are in the mode real_quant."""
    args, kwargs = pytree.tree_map(_from_single, (args, kwargs))
    with recurrent_in_double(model), _FloatBetweenLayers(Constants(model)):
        result = forward(*args, **kwargs)
    return pytree.tree_map(_to_single, result)


def call_layer(layer: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns what a quantized layer in real_quant makes of tensors from between the layers, as another such tensor."""
    with without_torch_function():  # the layer decides itself what it computes in which type
        args, kwargs = pytree.tree_map(_exact, (args, kwargs))
        return pytree.tree_map(_to_double, layer(*args, **kwargs))


def run_in_double(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns ``forward(*args, **kwargs)``, of something that is one call to us, as if it stood between two layers."""
    args, kwargs = pytree.tree_map(_to_double, (args, kwargs))
    with with_torch_function(), _FloatBetweenLayers(Constants(nn.Module())):
        return forward(*args, **kwargs)


def run_opaque(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns ``function(*args, **kwargs)``, somebody else's, as the exported file computes it, which has its nodes.

    What raises an error on float64, an extension for float32 only, is called on float32: its last bits may differ.
    """
    try:
        return pytree.tree_map(_exact, run_in_double(function, args, kwargs))
    except Exception as error:
        result = BetweenLayers().call(function, args, kwargs)
        _tell_single(_name(function) or type(function).__name__, " ".join(str(error).split()))
        return result


@functools.cache
def _tell_single(name: str, reason: str) -> None:
    _log.warning(
        "'%s' does not take float64 (%s), so real_quant calls it on float32: behind it a value next to a rounding tie"
        " may be rounded differently from the exported files.",
        name,
        reason,
    )


class _FloatBetweenLayers(TorchFunctionMode):
    """Every function and method of torch which is called while it is on goes through `BetweenLayers`."""

    def __init__(self, constants: Constants) -> None:
        super().__init__()
        self._between = BetweenLayers()
        self._constants = constants

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Computes what ``func`` would."""
        kwargs, name = kwargs or {}, _name(func)
        constant = self._constants.evaluate(func, args, kwargs)
        if constant is not None:
            return constant[0]
        if name == _PROPERTY:
            return args[0] if _name(func.__self__) == "data" else func(*args, **kwargs)  # type: ignore[attr-defined]
        if args and _is_single(args[0]) and changes_in_place(func, kwargs):
            return func(*args, **kwargs)  # a buffer, a parameter: it stays float32
        if name in _COPIES and _is_float(args[0]):
            return _copied(args[0], func, args, kwargs)
        function = MethodCall(name) if getattr(Tensor, name, None) is func else func
        result, gives_single = self._between.call(function, args, kwargs), self._between.gives_single(function)
        return pytree.tree_map(
            lambda leaf: _from_single(leaf) if gives_single and _is_single(leaf) else _as_double(leaf), result
        )


# --- what is called ---


def _name(func: Any) -> str:
    return getattr(func, "__name__", "")


def _is_single(leaf: Any) -> bool:
    return _is_float(leaf) and leaf.dtype != torch.float64


def _copied(x: Tensor, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """A copy that stands for the same; types are none between the layers (spec 10.4)."""
    copy = func(*args, **kwargs) if _name(func) in ("clone", "contiguous") else x.clone()
    return copy if copy is x else _standing_for(_exact(x), copy.double())


# --- what a tensor stands for ---


def _from_single(leaf: Any) -> Any:
    if not _is_float(leaf):
        return leaf
    single = leaf.detach().float()
    return _standing_for(single, single.double())


def _to_double(leaf: Any) -> Any:
    if isinstance(leaf, Accumulator):
        return _standing_for(leaf, leaf.whole())
    return leaf.whole() if isinstance(leaf, Deferred) else _as_double(leaf)


def _as_double(leaf: Any) -> Any:
    return leaf.double() if _is_float(leaf) else leaf


def _to_single(leaf: Any) -> Any:
    """Outputs are float32, also those in the fields of a dataclass."""
    if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type):
        return cast_floats(leaf, torch.float32)
    output = copy.copy(leaf)
    for field in dataclasses.fields(leaf):
        object.__setattr__(output, field.name, pytree.tree_map(_to_single, getattr(leaf, field.name)))
    return output


def _standing_for(exact: Tensor, double: Tensor) -> Tensor:
    setattr(double, _ORIGIN, _Origin(exact, version_of(double)))
    return double


def _exact(leaf: Any) -> Any:
    """Returns the exact form of a value between the layers; None if it has none or the value was changed since."""
    origin: _Origin | None = getattr(leaf, _ORIGIN, None) if isinstance(leaf, Tensor) else None
    return origin.exact if origin is not None and origin.version == version_of(leaf) else leaf


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
