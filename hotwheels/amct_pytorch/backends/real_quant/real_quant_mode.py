"""real_quant of a model or function without a graph: every call of torch is intercepted (spec 10.4).

Between the layers all floating tensors are plain float64 tensors, so that everything a model does with them works:
views, changes in place, item assignment, scripted functions. If the tensor has a more exact form (the integers of a
CUBE operation, or a float32 that must be divided in float32), that form is attached to it until its value changes.
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
from ...core.single_rounding import as_singles
from ...log import get_logger
from ...nn.call import MethodCall
from ...nn.double_call import cast_floats
from ...torch_private import pytree, version_of, with_torch_function, without_torch_function
from ..calls.constant_calls import Constants, changes_in_place
from .between_layers import BetweenLayers
from .float_products import is_matrix_product, matrix_product_of_singles
from .recurrent import recurrent_in_double

_log = get_logger(__name__)
_ORIGIN = "_amct_origin"
# Methods whose result has its own memory, so that a change of the result in place does not change the original.
_COPIES = frozenset({"clone", "contiguous", "double", "half", "bfloat16"})
_PROPERTY = "__get__"


@dataclasses.dataclass(frozen=True)
class _Origin:
    """The exact form of a float64 tensor, an `Accumulator` or a float32 tensor; valid for one version of the tensor.

    None stands for the float32 tensor of the same values.
    """

    exact: Tensor | None
    version: int


def run_real_quant(model: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns ``forward(*args, **kwargs)`` of ``model`` in float32; its quantized layers are in the mode real_quant."""
    return outside_inference_mode(functools.partial(_run, model, forward), args, kwargs)


def _run(model: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    args, kwargs = pytree.tree_map(_from_single, (args, kwargs))
    with recurrent_in_double(model), _FloatBetweenLayers(Constants(model)):
        result = forward(*args, **kwargs)
    return pytree.tree_map(_to_single, result)


def outside_inference_mode(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns ``forward(*args, **kwargs)``; its tensors count their changes in place, unlike those of inference mode.

    Inference tensors among the arguments are copied if torch.inference_mode is on.
    """
    if not torch.is_inference_mode_enabled():
        return forward(*args, **kwargs)
    with torch.inference_mode(False), torch.no_grad():
        args, kwargs = pytree.tree_map(_counting, (args, kwargs))
        return forward(*args, **kwargs)


def _counting(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf


def call_layer(layer: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns the result of a quantized layer in real_quant; arguments and result are float64 with exact forms."""
    with without_torch_function():  # the layer itself chooses the types in which it computes
        args, kwargs = pytree.tree_map(_exact, (args, kwargs))
        return pytree.tree_map(_to_double, layer(*args, **kwargs))


def run_in_double(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns ``forward(*args, **kwargs)`` of a module that is a single node, computed as between two layers."""
    args, kwargs = pytree.tree_map(_to_double, (args, kwargs))
    with with_torch_function(), _FloatBetweenLayers(Constants(nn.Module())):
        return forward(*args, **kwargs)


def run_opaque(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    note_written: Callable[[Tensor], None] = lambda _: None,
) -> Any:
    """Returns ``function(*args, **kwargs)`` of a user's function, with the results of its nodes in the exported file.

    A function that raises an error on float64 (an extension for float32 only) is called on float32: the last bits of
    its result may differ. ``note_written`` gets each tensor among the arguments that the function changes in place; the
    tensor itself keeps its values, since a copy in float64 is changed.
    """
    try:
        doubles = pytree.tree_map(_to_double, (args, kwargs))
        pairs = zip(pytree.tree_leaves((args, kwargs)), pytree.tree_leaves(doubles), strict=True)
        watched = [(one, double, version_of(double)) for one, double in pairs if isinstance(double, Tensor)]
        result = pytree.tree_map(_exact, run_in_double(function, *doubles))
        for one, double, version in watched:
            if version_of(double) != version and double is not one:
                note_written(one)
        return result
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
    """While this mode is active, every call of a torch function or method goes through `BetweenLayers`."""

    def __init__(self, constants: Constants) -> None:
        super().__init__()
        self._between = BetweenLayers()
        self._constants = constants

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Returns the result of ``func`` as the exported file computes it."""
        kwargs, name = kwargs or {}, _name(func)
        constant = self._constants.evaluate(func, args, kwargs)
        if constant is not None:
            return constant[0]
        if name == _PROPERTY:
            return _property(_name(func.__self__), func, args)  # type: ignore[attr-defined]
        if args and _is_single(args[0]) and changes_in_place(func, kwargs):
            return func(*args, **kwargs)  # a buffer or parameter, which stays float32
        if name in _COPIES and _is_float(args[0]):
            return _copied(args[0], func, args, kwargs)
        function = MethodCall(name) if getattr(Tensor, name, None) is func else func
        if is_matrix_product(function, args, kwargs):
            args, kwargs = pytree.tree_map(_holding_singles, (args, kwargs))
            product, is_single = matrix_product_of_singles(function, args, kwargs)
            return _standing_for(None, product) if is_single else product
        result, gives_single = self._between.call(function, args, kwargs), self._between.gives_single(function)
        return pytree.tree_map(
            lambda leaf: _from_single(leaf) if gives_single and _is_single(leaf) else _as_double(leaf), result
        )


# --- what is called ---


def _property(name: str, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Returns a property of a tensor, with the type that it has in float and in files."""
    if name == "data":
        return args[0]
    value = func(*args)
    return torch.float32 if value is torch.float64 else value


def _name(func: Any) -> str:
    return getattr(func, "__name__", "")


def _is_single(leaf: Any) -> bool:
    return _is_float(leaf) and leaf.dtype != torch.float64


def _copied(x: Tensor, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Returns a copy with the same exact form; between the layers conversions of type have no effect (spec 10.4)."""
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
    """Returns ``leaf`` as an output of the model: float32, also in the fields of a dataclass."""
    if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type):
        return cast_floats(leaf, torch.float32)
    output = copy.copy(leaf)
    for field in dataclasses.fields(leaf):
        object.__setattr__(output, field.name, pytree.tree_map(_to_single, getattr(leaf, field.name)))
    return output


def _standing_for(exact: Tensor | None, double: Tensor) -> Tensor:
    setattr(double, _ORIGIN, _Origin(exact, version_of(double)))
    return double


def _exact(leaf: Any) -> Any:
    """Returns the exact form of a value; ``leaf`` itself if it has none or was changed in place since."""
    origin = _origin_of(leaf)
    if origin is None:
        return leaf
    return leaf.float() if origin.exact is None else origin.exact


def _origin_of(leaf: Any) -> _Origin | None:
    origin: _Origin | None = getattr(leaf, _ORIGIN, None) if isinstance(leaf, Tensor) else None
    return origin if origin is not None and origin.version == version_of(leaf) else None


def _holding_singles(leaf: Any) -> Any:
    """Returns the operand of a float product: float64 that holds float32 values."""
    if not _is_float(leaf):
        return leaf
    origin = _origin_of(leaf)
    if origin is None or isinstance(origin.exact, Deferred):
        return as_singles(leaf)
    return leaf if origin.exact is None or _is_single(origin.exact) else as_singles(leaf)


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
