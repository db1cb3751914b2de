"""real_quant of one QuantizedLayer: the integers which the chip computes (spec 10)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import requantize as integer
from ..core.accumulator import Accumulator, Deferred, Piece
from ..core.affine import quantize, quantize_bias
from ..core.exact_product import matrix_product, weighted_product
from ..core.params import QuantParams
from ..core.search.codebook import assign
from ..errors import CalibrationError
from ..ops.desc import Role
from .double_call import RELU, call_in_double

if TYPE_CHECKING:
    from .quantized_layer import QuantizedLayer


def real_quant_forward(layer: QuantizedLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs ``layer`` on integers; float tensors come and go as float64 or as accumulators."""
    if layer.weighted is not None:
        return _weighted(layer, *args, **kwargs)
    kernel = _KERNELS.get(layer.op.role, _other)
    if not all(_is_float(x) for x in layer.call.inputs(args, kwargs)):
        kernel = _other
    return kernel(layer, args, kwargs)


def integer_weight(weight: Tensor, params: QuantParams) -> Tensor:
    """Returns the integers, in float32, of a weight [C_out, ...]; codebook values if it is non-uniform (spec 6.3)."""
    weight = weight.float()  # as the export stores the weights of a half precision model
    if params.codebook is not None:
        return assign(weight, params.scale, params.codebook).float()
    shape = (-1, *[1] * (weight.dim() - 1)) if params.scale.dim() else ()
    return quantize(weight, params.scale.reshape(shape), params.offset.reshape(shape), params.num_bits)


def _weighted(layer: QuantizedLayer, input: Tensor, output_size: list[int] | None = None) -> Tensor:
    data = layer.activation[0].params()
    x = _integers(layer, 0, input, data)
    weight, bias = (None if t is None else t.detach() for t in layer.weighted.folded())
    params = layer.current_weight_params(weight, bias)
    weight = integer_weight(weight, params)
    # A Linear of rank > 2 is MatMul + float Add on the chip (spec 8.3), one of a vector is exported like that. Every
    # other bias is part of the accumulator.
    is_float_bias = bias is not None and layer.op.role is Role.LINEAR and input.dim() != 2
    accumulator, bound = weighted_product(
        lambda a, b, c: layer.weighted.apply(a, b, c, output_size),
        x,
        weight,
        None if bias is None or is_float_bias else quantize_bias(bias, data.scale, params.scale),
        integer.limits_of(data),
        axis=-1 if layer.op.role is Role.LINEAR else -3,
        groups=getattr(layer.weighted.module, "groups", 1),
    )
    shape = layer.weighted.channel_shape
    step = data.scale.double() * params.scale.double()
    _refuse_overflow(layer, accumulator, bound)
    shift_bit = _shift_bit(layer)
    if shift_bit is not None:
        accumulator = integer.shift(accumulator, shift_bit)
    result = _finish(layer, accumulator, step.reshape(shape) if step.dim() else step)
    return result.whole() + bias.double() if is_float_bias else result


def _matmul(layer: QuantizedLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    left, right = layer.call.inputs(args, kwargs)
    grids = [quantizer.params() for quantizer in layer.activation]
    operands = (_integers(layer, at, x, grids[at]) for at, x in enumerate((left, right)))
    accumulator = matrix_product(*operands, *map(integer.limits_of, grids))
    _refuse_overflow(layer, accumulator)
    return _finish(layer, accumulator, grids[0].scale.double() * grids[1].scale.double())


def _max_pool(layer: QuantizedLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    grid = layer.activation[0].params()
    x = _integers(layer, 0, layer.call.inputs(args, kwargs)[0], grid)
    result = layer.call(*layer.call.substitute(args, kwargs, [x]))
    step = grid.scale.double()
    if isinstance(result, tuple):  # (values, indices)
        return (_finish(layer, result[0], step), *result[1:])
    return _finish(layer, result, step)


def _avg_pool(layer: QuantizedLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    grid = layer.activation[0].params()
    x = _integers(layer, 0, layer.call.inputs(args, kwargs)[0], grid)
    if layer.op.name.startswith("adaptive"):
        output_size = _arguments(layer, args, kwargs, F.adaptive_avg_pool2d, ("output_size",))
        sums, divisor = integer.adaptive_avg_pool2d_sum(x, **output_size)
    else:
        names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
        sums, divisor = integer.avg_pool2d_sum(x, **_arguments(layer, args, kwargs, _avg_pool2d_signature, names))
    _refuse_overflow(layer, sums)
    return _finish(layer, sums, grid.scale.double() * (1.0 / divisor))


def _avg_pool2d_signature(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> None:
    """The arguments of ``F.avg_pool2d``, which is a builtin without a signature."""


def _arguments(
    layer: QuantizedLayer, args: tuple[Any, ...], kwargs: dict[str, Any], signature: Callable, names: tuple[str, ...]
) -> dict[str, Any]:
    """The pooling arguments: attributes of a module, bound arguments of a function."""
    if layer.call.module is not None:
        return {name: getattr(layer.call.module, name) for name in names}
    bound = inspect.signature(signature).bind(*args, **kwargs).arguments
    return {name: bound[name] for name in names if name in bound}


def _other(layer: QuantizedLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Everything else: float64 on the dequantized integers (spec 10.4)."""
    values = layer.call.inputs(args, kwargs)
    grids = {index: layer.activation[index].params() for index, x in enumerate(values) if _is_float(x)}
    values = [_integers(layer, at, x, grids[at]) if at in grids else x for at, x in enumerate(values)]

    def reals(part: Piece) -> list[Any]:
        return [_real(layer, at, x[part], grids[at]) if at in grids else x for at, x in enumerate(values)]

    def whole() -> list[Any]:  # contiguous, since the operation may look at the layout
        return [x.contiguous() if _is_float(x) else x for x in reals(...)]

    def compute(part: Piece) -> Any:
        operands = whole() if part is ... else reals(part)
        return call_in_double(layer.call.function, *layer.call.substitute(args, kwargs, operands), layer.op)

    if layer.op.role in _EACH_ELEMENT and _have_one_shape(values):
        made = Deferred.by(values[0], compute, (lambda part: reals(part)[0]) if layer.op.name == RELU else None)
        made.may_be_nan = layer.op.name not in _FINITE or len(args) != len(values)  # a number may be infinite
        return made
    return compute(...)


def _real(layer: QuantizedLayer, index: int, integers: Tensor, grid: QuantParams) -> Tensor:
    real = integer.to_real(integers, grid)
    return real.float() if index in layer.constant_inputs else real


_FINITE = frozenset({RELU, "add", "sub", "mul"})  # of grid points: numbers far from the ends of float64
_EACH_ELEMENT = frozenset({Role.ELEMENTWISE, Role.FUSED_ACTIVATION})


def _have_one_shape(values: list[Any]) -> bool:
    """Whether all operands are tensors of one shape, so that each part of the result needs that part of them only."""
    shapes = {x.shape if isinstance(x, Tensor) else None for x in values}
    return len(shapes) == 1 and None not in shapes and len(next(iter(shapes))) > 0


_KERNELS = {Role.MATMUL: _matmul, Role.MAX_POOL: _max_pool, Role.AVG_POOL: _avg_pool}


def _integers(layer: QuantizedLayer, index: int, x: Tensor, grid: QuantParams) -> Tensor:
    integers = layer.shared_result(index, x, "to_integers", lambda x: integer.to_integers(x, grid))
    may_be_nan = x.may_be_nan if isinstance(x, Deferred) else True
    if may_be_nan and bool(torch.isnan(integers.sum())):  # everything else is clipped, so the sum is finite
        raise CalibrationError(f"Layer '{layer.name}': input {index} contains NaN, which has no integer.")
    if isinstance(x, Accumulator) and not bool(torch.isfinite(integer.multiplier(x, grid)).all()):
        msg = (
            f"Layer '{layer.name}', input {index}: the requantization from step {float(x.step.max()):g} to scale"
            f" {float(grid.scale):g} is beyond float32."
        )
        raise CalibrationError(msg)
    if layer.trace is not None:
        layer.trace.add_edge(layer.name, index, integers + grid.offset)
    return integers


def _refuse_overflow(layer: QuantizedLayer, accumulator: Tensor, bound: float = math.inf) -> None:
    worst = integer.worst_overflow(accumulator, bound)
    if worst is not None:
        msg = (
            f"Layer '{layer.name}': an accumulator reaches {worst:.0f}, outside int32. Lower num_bits of its data, or"
            " leave the layer in float (quant_enable: false)."
        )
        raise CalibrationError(msg)


def _finish(layer: QuantizedLayer, accumulator: Tensor, step: Tensor) -> Tensor:
    if layer.trace is not None:
        layer.trace.add_sums(layer.name, accumulator)
    return Accumulator.of(accumulator, step)


def _shift_bit(layer: QuantizedLayer) -> Tensor | None:
    """N, such that it broadcasts against the output; None where nothing is shifted."""
    shift_bit, weighted = layer.shift_bit, layer.weighted
    if shift_bit is None or weighted is None:
        return None
    if bool((shift_bit < 0).any()):
        msg = (
            f"Layer '{layer.name}': its shift bit is not known yet. Run as many forwards of the quantized model as its"
            " calibration wants; the one that completes it looks for the shift."
        )
        raise CalibrationError(msg)
    if not bool(shift_bit.any()):
        return None
    return shift_bit.reshape(weighted.channel_shape if shift_bit.numel() > 1 else ())


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and torch.is_floating_point(x)
