"""Products and poolings that stay in float: the chip computes them in float32, from float32 (spec 10.4).

Besides the CUBE operations of the registry, these are other spellings that are exported as the same nodes: functions
with a weight as an argument, and operations on one or three dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import conv, pooling

from ...core.single_rounding import round_to_singles
from ...nn.call import MethodCall
from ...nn.double_call import call_in_double, cast_floats
from ...ops.desc import OpDesc

WEIGHTED_FUNCTIONS = frozenset(
    {F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}
)
_FUNCTIONS = WEIGHTED_FUNCTIONS | {
    *(torch.mm, torch.mv, torch.dot, torch.addmm, torch.baddbmm, F.scaled_dot_product_attention),
    *(F.avg_pool1d, F.avg_pool3d, F.max_pool1d, F.max_pool3d),
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool3d, F.adaptive_max_pool1d, F.adaptive_max_pool3d),
}
_METHODS = frozenset({"mm", "mv", "dot", "addmm", "baddbmm", "__rmatmul__"})
_MODULES = (
    *(conv._ConvNd, pooling._AvgPoolNd, pooling._MaxPoolNd, pooling._AdaptiveAvgPoolNd, pooling._AdaptiveMaxPoolNd),
)


def is_float_product(function: Callable[..., Any], op: OpDesc | None) -> bool:
    """Whether ``function``, which ``op`` describes if the registry knows it, is computed in float32."""
    if op is not None:
        return op.is_cube
    if isinstance(function, nn.Module):
        return isinstance(function, _MODULES)
    return function.name in _METHODS if isinstance(function, MethodCall) else function in _FUNCTIONS


def call_float_product(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns ``function(*args, **kwargs)``, rounded to float32 at the end of its ONNX node.

    A linear function with bias on more than two dimensions is exported as two nodes: only the product is rounded.
    """
    args, kwargs = cast_floats((args, kwargs), torch.float32)
    bias = _added_bias(function, args, kwargs)
    if bias is None:
        return cast_floats(call_in_double(function, args, kwargs), torch.float32)
    weight = function.weight if isinstance(function, nn.Linear) else _argument(args, kwargs, 1, "weight")
    product = call_in_double(F.linear, (_argument(args, kwargs, 0, "input"), weight), {})
    return cast_floats(cast_floats(product, torch.float32), torch.float64) + bias.double()


def is_matrix_product(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether `matrix_product_of_singles` computes the call of ``function``."""
    if torch.is_grad_enabled() or "out" in kwargs:
        return False
    is_known = function.name in _MATRIX_METHODS if isinstance(function, MethodCall) else function in _MATRIX_FUNCTIONS
    return is_known and all(
        isinstance(one, Tensor) and one.is_floating_point() for one in (*args, *kwargs.values()) if one is not None
    )


def matrix_product_of_singles(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, bool]:
    """Returns (`call_float_product` in float64, whether all its values are float32), in fewer passes.

    All tensors among the arguments are float64 and hold float32 values.
    """
    bias = _added_bias(function, args, kwargs)
    if bias is None:
        return round_to_singles(call_in_double(function, args, kwargs)), True
    operands = _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight")
    return round_to_singles(call_in_double(F.linear, operands, {})).add_(bias), False


_MATRIX_FUNCTIONS: frozenset[Callable[..., Any]] = frozenset({F.linear}) | {torch.matmul, torch.bmm, torch.mm}
_MATRIX_METHODS = frozenset({"matmul", "__matmul__", "bmm", "mm"})


def _added_bias(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    if isinstance(function, nn.Linear):
        bias = function.bias
    elif function is F.linear:
        bias = _argument(args, kwargs, 2, "bias")
    else:
        return None
    return bias if _argument(args, kwargs, 0, "input").dim() > 2 else None


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str) -> Any:
    return kwargs.get(name, args[position] if position < len(args) else None)
