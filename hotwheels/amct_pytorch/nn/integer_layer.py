"""IntegerLayer: one layer in real_quant state, computed on integers as the chip does (spec 10)."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import requantize
from ..core.accumulator import Accumulator, Deferred, Factors, Piece, Sum, Table, Term
from ..core.exact_product import matrix_product
from ..core.params import QuantParams
from ..errors import CalibrationError
from ..ops.desc import OpDesc, Role
from ..quantizers.observers.observation import is_quantizable
from .call import LayerCall
from .double_call import CLAMPS, call_in_double, leaves_of
from .layer_weight import FrozenWeight
from .moved_integers import joined, moved, moves_one, ready_for
from .point_results import results_of_points
from .prepared_weight import prepared
from .unit_axis import closed, image_settings, opened


class IntegerWatcher(Protocol):
    """Receives the integers of real_quant as integer-valued tensors."""

    def add_edge(self, layer: str, index: int, integers: Tensor) -> None:
        """Takes the integers of one quantized input, offset included."""

    def add_sums(self, layer: str, sums: Tensor) -> None:
        """Takes the exact accumulator of a CUBE operation, after bias and shift."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntegerLayer:
    """The parameters of a layer that one real_quant forward reads; they do not change during the forward.

    Attributes:
      name: Layer name.
      op: The operation's description in the registry.
      call: The operation, and the positions of its quantized inputs in the call.
      grids: The grids of the inputs that are floating tensors, by index of the input.
      weight: The folded weight and its grid; None without weights.
      shift_bit: float32 [scales of the weight], N of spec 4.6; None if nothing is shifted, see `are_known`.
      constant_inputs: Which inputs are constants; the files hold their grid points in float32 (spec 11.3).
      shared_result: ``(index, x, purpose, compute)`` -> ``compute(x)``, made once for all readers of input ``index``.
      watcher: Called with the integers; None if they are not recorded.
    """

    name: str
    op: OpDesc
    call: LayerCall
    grids: Mapping[int, QuantParams]
    weight: FrozenWeight | None
    shift_bit: Tensor | None
    constant_inputs: frozenset[int]
    shared_result: Callable[[int, Tensor, str, Callable[[Tensor], Any]], Any]
    watcher: IntegerWatcher | None

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Returns the layer's result on integers; float tensors enter and leave as float64 or as accumulators."""
        if len(self.grids) < len(self.call.edges):  # inputs that are no floating tensors
            return _other(self, args, kwargs)
        if self.weight is not None:
            return _weighted(self, self.weight, *args, **kwargs)
        return _KERNELS.get(self.op.role, _other)(self, args, kwargs)

    def integers(self, index: int, x: Tensor) -> Tensor:
        """Returns the integers of input ``index`` without the offset; CalibrationError if ``x`` holds NaN."""
        grid = self.grids[index]
        integers: Tensor = self.shared_result(index, x, "to_integers", lambda x: requantize.to_integers(x, grid))
        may_be_nan = x.may_be_nan if isinstance(x, Deferred) else True
        if may_be_nan and bool(torch.isnan(integers.sum())):  # everything else is clipped, so the sum is finite
            raise CalibrationError(f"Layer '{self.name}': input {index} contains NaN, which has no integer.")
        if isinstance(x, Accumulator) and not requantize.is_finite(x, grid):
            msg = (
                f"Layer '{self.name}', input {index}: the requantization from step {float(x.step.max()):g} to scale"
                f" {float(grid.scale):g} is beyond float32."
            )
            raise CalibrationError(msg)
        if self.watcher is not None:
            self.watcher.add_edge(self.name, index, integers + grid.offset)
        return integers

    def unsigned(self, index: int, x: Any) -> Tensor | None:
        """Returns the integers of input ``index`` counted from the lowest of its grid, uint8.

        None if the float32 ones of `integers` are needed: for a watcher, for values that may be NaN, for other grids
        than those of 8 bits, and where no kernel makes bytes at once.
        """
        grid = self.grids.get(index)
        is_known = isinstance(x, Deferred) and x.form is not None and not x.may_be_nan
        if grid is None or not is_known or self.watcher is not None or grid.num_bits != _BYTE:
            return None
        if isinstance(x, Accumulator) and not requantize.is_finite(x, grid):
            return None
        found: Tensor | None = self.shared_result(index, x, "to_unsigned", lambda x: requantize.to_unsigned(x, grid))
        return found

    def accumulated(self, sums: Tensor, step: Tensor) -> Accumulator:
        """Returns the result of a CUBE operation: exact integers, and the real value of one of their steps."""
        if self.watcher is not None:
            self.watcher.add_sums(self.name, sums)
        return Accumulator.of(sums, step)

    def refuse_overflow(self, sums: Tensor, bound: float = math.inf) -> None:
        """Raises CalibrationError if an accumulator is outside int32; no magnitude exceeds ``bound``."""
        worst = requantize.worst_overflow(sums, bound)
        if worst is not None:
            msg = (
                f"Layer '{self.name}': an accumulator reaches {worst:.0f}, outside int32. Lower num_bits of its data,"
                " or leave the layer in float (quant_enable: false)."
            )
            raise CalibrationError(msg)


def _weighted(layer: IntegerLayer, known: FrozenWeight, input: Tensor, output_size: list[int] | None = None) -> Tensor:
    weight = prepared(known, layer.grids[0], known.op.adds_bias_in_float(input))
    sums = None
    if weight.takes_unsigned(input):
        unsigned = layer.unsigned(0, input)
        sums = None if unsigned is None else weight.product_of_unsigned(unsigned)
    if sums is None:
        sums, bound = weight.product(layer.integers(0, input), output_size)
        layer.refuse_overflow(sums, bound)
    shift_bit = _shift_bit(layer, known.op.channel_shape)
    if shift_bit is not None:
        sums = requantize.shift(sums, shift_bit)
    result = layer.accumulated(sums, weight.step)
    return result if weight.float_bias is None else _with_bias(result, weight.float_bias)


def _with_bias(product: Accumulator, added: Tensor) -> Deferred:
    """Returns the float64 sum of the product and a float64 bias for each element of its last axis."""
    made = Deferred.by(
        product.integers, lambda at: product.part(at).add_(added), Sum(((product.integers, product.step),), added)
    )
    made.may_be_nan = not bool(added.isfinite().all())
    return made


def _matmul(layer: IntegerLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    left, right = layer.grids[0], layer.grids[1]
    first, second = (layer.integers(index, x) for index, x in enumerate(layer.call.inputs(args, kwargs)))
    sums = matrix_product(first, second, requantize.limits_of(left), requantize.limits_of(right))
    layer.refuse_overflow(sums)
    return layer.accumulated(sums, requantize.wide_scale(left) * requantize.wide_scale(right))


def _max_pool(layer: IntegerLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x = layer.integers(0, layer.call.inputs(args, kwargs)[0])
    result = layer.call(*layer.call.substitute(args, kwargs, [x]))
    step = requantize.wide_scale(layer.grids[0])
    if isinstance(result, tuple):  # (values, indices)
        return (layer.accumulated(result[0], step), *result[1:])
    return layer.accumulated(result, step)


def _avg_pool(layer: IntegerLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    found = _global_sums(layer, args, kwargs)
    if found is not None:
        return layer.accumulated(found[0], requantize.wide_scale(layer.grids[0]) * (1.0 / found[1]))
    x = layer.integers(0, layer.call.inputs(args, kwargs)[0])
    margins = getattr(layer.call.module, "margins", None)
    if margins is not None:
        x = F.pad(x, margins)
    add_up: Callable[..., tuple[Tensor, Tensor]]
    if layer.op.name.startswith("adaptive"):
        settings = _arguments(layer, args, kwargs, F.adaptive_avg_pool2d, ("output_size",))
        add_up = functools.partial(requantize.adaptive_avg_pool2d_sum, limits=requantize.limits_of(layer.grids[0]))
    else:
        settings = _arguments(layer, args, kwargs, _avg_pool_signature, _AVG_POOL_SETTINGS)
        add_up = requantize.avg_pool2d_sum
    if layer.op.image_axes == 1:
        sums, divisor = map(closed, add_up(opened(x), **image_settings(settings)))
    else:
        sums, divisor = add_up(x, **settings)
    layer.refuse_overflow(sums)
    return layer.accumulated(sums, requantize.wide_scale(layer.grids[0]) * (1.0 / divisor))


def _global_sums(layer: IntegerLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Returns sums and divisor of a global average of images whose integers are made as bytes; None if they are not."""
    x = layer.call.inputs(args, kwargs)[0]
    if not layer.op.name.startswith("adaptive") or layer.op.image_axes == 1 or x.dim() != 4:
        return None
    size = _arguments(layer, args, kwargs, F.adaptive_avg_pool2d, ("output_size",)).get("output_size")
    unsigned = layer.unsigned(0, x) if requantize.is_global(size) else None
    return None if unsigned is None else requantize.sum_of_unsigned(unsigned, requantize.limits_of(layer.grids[0]))


_AVG_POOL_SETTINGS = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def _avg_pool_signature(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> None:
    """The arguments of ``F.avg_pool2d`` and ``F.avg_pool1d``, which are builtins without a signature."""


def _arguments(
    layer: IntegerLayer,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    signature: Callable[..., Any],
    names: tuple[str, ...],
) -> dict[str, Any]:
    """Returns the pooling arguments: the attributes of a module, or the arguments of a function call."""
    if layer.call.module is not None:
        return {name: getattr(layer.call.module, name) for name in names if hasattr(layer.call.module, name)}
    bound = inspect.signature(signature).bind(*args, **kwargs).arguments
    return {name: bound[name] for name in names if name in bound}


def _other(layer: IntegerLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns the result of any other operation: float64 on the dequantized integers (spec 10.4)."""
    grids, operands = layer.grids, layer.call.inputs(args, kwargs)
    given = leaves_of((args, kwargs))
    tensors = [x for x in given if isinstance(x, Tensor)]
    if _is_function_of_integers(layer, operands, tensors):
        return _tabulated(layer, args, kwargs, operands[0])
    values = [layer.integers(at, x) if at in grids else x for at, x in enumerate(operands)]
    found = _moved(layer, args, kwargs, values)
    if found is not None:
        return found

    def compute(operands: list[Any]) -> Any:
        return call_in_double(layer.call.function, *layer.call.substitute(args, kwargs, operands), layer.op)

    def of_piece(part: Piece) -> Any:
        return compute([_real(layer, at, _piece(x, part)) if at in grids else x for at, x in enumerate(values)])

    carrier = _carrier(layer, values, tensors) if layer.op.role in _EACH_ELEMENT else None
    if carrier is not None:
        made = Deferred.by(carrier, of_piece, _form(layer, args, kwargs, values))
        made.may_be_nan = layer.op.name not in _FINITE or len(args) != len(values)  # a scalar operand may be infinite
        return made
    reals = [_real(layer, at, x) if at in grids else x for at, x in enumerate(values)]
    return compute([x.contiguous() if is_quantizable(x) else x for x in reals])  # it may depend on the layout


def _moved(layer: IntegerLayer, args: tuple[Any, ...], kwargs: dict[str, Any], integers: list[Any]) -> Any | None:
    """Returns the result of an operation that only moves elements, computed on integers; None for other operations."""
    if len(layer.grids) != len(integers) or layer.constant_inputs:
        return None
    function = layer.call.function
    if len(integers) == 1 and moves_one(function):
        operands = layer.call.substitute(args, kwargs, [ready_for(function, integers[0])])
        return moved(layer.call(*operands), requantize.wide_scale(layer.grids[0]))
    terms = [(one, requantize.wide_scale(layer.grids[index])) for index, one in enumerate(integers)]
    return joined(function, args, kwargs, terms)


def _is_function_of_integers(layer: IntegerLayer, values: list[Any], tensors: list[Tensor]) -> bool:
    """Whether a table of the results for all grid points is smaller than the result of the layer."""
    function, module = layer.call.function, layer.call.module
    return (
        layer.op.is_pointwise
        and len(layer.grids) == len(values) == len(tensors) == 1
        and not layer.constant_inputs
        and values[0].dim() > 0
        and values[0].numel() >= _LEAST_SHARE << layer.grids[0].num_bits
        and (module is None or type(module).__module__.startswith(_OWN_MODULES))  # a user's subclass may do anything
        and not getattr(function, "is_own", False)  # a forward that the user has set on the module
    )


def _tabulated(layer: IntegerLayer, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Deferred:
    """Returns the results of an operation on single elements, each computed once for each grid point."""
    limits = requantize.limits_of(layer.grids[0])
    values, has_nan = results_of_points(layer.grids[0], layer.call, layer.op, args, kwargs, x.device)
    unsigned = layer.unsigned(0, x)
    if unsigned is not None:
        table = Table(unsigned, 0, values)
        made = Deferred.of_shape(x.shape, table.part, table)
    else:
        integers = layer.integers(0, x)
        table = Table(integers, limits.low, values)
        made = Deferred.by(integers, table.part, table)
    made.may_be_nan = has_nan
    return made


def _piece(x: Tensor, part: Piece) -> Tensor:
    """Returns the part of an operand, which may be a vector of channels for each image, for a piece of the result."""
    return x[part[0]] if isinstance(part, tuple) and x.shape[2:] == (1, 1) else x[part]


def _carrier(layer: IntegerLayer, values: list[Any], tensors: list[Tensor]) -> Tensor | None:
    """Returns the operand with the shape of the result, if a part of the result needs only that part of the operands.

    All operands are float tensors of one shape, or the factors of images have one value for each image and channel.
    """
    operands = [*values, *tensors]
    if not all(isinstance(x, Tensor) and x.is_floating_point() and x.dim() for x in operands):
        return None
    largest: Tensor = max(values, key=Tensor.numel)
    shapes = {x.shape for x in operands} - {largest.shape}
    per_channel = {(*largest.shape[:2], 1, 1)} if layer.op.name == "mul" and largest.dim() == 4 else set()
    return largest if shapes <= per_channel else None


def _form(
    layer: IntegerLayer, args: tuple[Any, ...], kwargs: dict[str, Any], values: list[Any]
) -> Sum | Factors | None:
    """Returns what the result of a clamp, a plain addition or multiplication of quantized tensors is; else None."""
    name = layer.op.name
    count = 2 if name in ("add", "mul") else 1 if name in CLAMPS else 0
    if len(layer.grids) != count or len(args) != count or kwargs or layer.constant_inputs:
        return None
    terms: list[Term] = [(one, requantize.wide_scale(layer.grids[index])) for index, one in enumerate(values)]
    if name == "mul":
        first, second = sorted(terms, key=lambda term: -term[0].numel())
        return Factors((first, second))
    is_of_one_shape = len({one.shape for one in values}) == 1
    return Sum(tuple(terms), ends=CLAMPS.get(name, _NO_ENDS)) if is_of_one_shape else None


def _real(layer: IntegerLayer, index: int, integers: Tensor) -> Tensor:
    real = requantize.to_real(integers, layer.grids[index])
    return real.float() if index in layer.constant_inputs else real


_FINITE = frozenset({*CLAMPS, "add", "sub", "mul"})  # never NaN on grid points, whose float64 values cannot overflow
_EACH_ELEMENT = frozenset({Role.ELEMENTWISE, Role.FUSED_ACTIVATION})
_NO_ENDS = (-math.inf, math.inf)
_BYTE = 8  # bits
_LEAST_SHARE = 4  # of a table in the result that is looked up there
_OWN_MODULES = ("torch.nn.", "hotwheels.")


_KERNELS = {Role.MATMUL: _matmul, Role.MAX_POOL: _max_pool, Role.AVG_POOL: _avg_pool}


def are_known(shift_bit: Tensor) -> bool:
    """Whether all shift bits are known: whole numbers from 0 on, which averages of several models are not."""
    return bool(((shift_bit >= 0) & (shift_bit == shift_bit.round())).all())


def _shift_bit(layer: IntegerLayer, channel_shape: tuple[int, ...]) -> Tensor | None:
    """Returns N, shaped to broadcast against the output; None if nothing is shifted."""
    shift_bit = layer.shift_bit
    if shift_bit is None:
        return None
    if not are_known(shift_bit):
        msg = (
            f"Layer '{layer.name}': its shift bit is not known yet. Run all forwards of calibration with the quantized"
            " model (batch_num); the last of them finds the shift bit."
        )
        raise CalibrationError(msg)
    if not bool(shift_bit.any()):
        return None
    return shift_bit.reshape(channel_shape if shift_bit.numel() > 1 else ())
