"""PreparedWeight: the integers of a weight with all that their products with data on one grid need."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..core import requantize
from ..core.affine import quantize_bias
from ..core.exact_product import FLOAT32_EXACT, Product, Range, RowSums, float32_is_exact, weighted_product
from ..core.int8_product import Int8Functions, int8_functions
from ..core.params import QuantParams
from ..ops.desc import Role
from .layer_weight import FrozenWeight


@dataclasses.dataclass(frozen=True)
class PreparedWeight:
    """A weight and the grid of its data; kept as long as both stay the same.

    Attributes:
      weight: The integers of the weight.
      data: The grid of the data.
      bias: The bias in steps of the accumulator, float64 [C_out]; None without bias, or if it is added in float.
      float_bias: The bias that is added in float, float64; None without.
      step: Real units per integer of the accumulator, float64; broadcasts against it.
      int8: The functions on bytes that compute the whole product exactly; None if there are none.
      single_bias: ``bias`` in float32, for ``int8``.
    """

    weight: FrozenWeight
    data: QuantParams
    bias: Tensor | None
    float_bias: Tensor | None
    step: Tensor
    int8: Int8Functions | None
    single_bias: Tensor | None

    def takes_unsigned(self, x: Tensor) -> bool:
        """Whether `product_of_unsigned` computes the product with data of the shape of ``x``."""
        op = self.weight.op
        if self.int8 is None or op.role is not Role.CONV or not float32_is_exact(x.device):
            return False
        return self.int8.takes_unsigned(x, self.weight.integers, op.module)

    def product_of_unsigned(self, unsigned: Tensor) -> Tensor:
        """Returns the exact product with data counted from the lowest integer of its grid, uint8."""
        assert self.int8 is not None
        return self.int8.conv2d_of_unsigned(unsigned, self.weight.integers, self.single_bias, self.weight.op.module)

    def product(self, x: Tensor, output_size: list[int] | None) -> tuple[Tensor, float]:
        """Returns the exact product with float32 integers ``x``, and the largest magnitude that it can have."""
        op, integers = self.weight.op, self.weight.integers
        axis = -len(op.channel_shape)
        if self.int8 is not None and float32_is_exact(x.device):  # what `weighted_product` finds anew for each product
            x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 and axis == -3 else x
            return op.apply(x, integers, self.single_bias, output_size, self.int8), FLOAT32_EXACT

        def faster(limits: Range, sums: RowSums, largest: float) -> Product | None:
            functions = int8_functions(limits, sums, largest, integers, self.weight.packed)
            if functions is None:
                return None
            return lambda a, b, c: op.apply(a, b, c, output_size, functions)

        return weighted_product(
            lambda a, b, c: op.apply(a, b, c, output_size),
            x,
            integers,
            self.bias,
            requantize.limits_of(self.data),
            axis=axis,
            groups=getattr(op.module, "groups", 1),
            sums=self.weight.sums,
            faster=faster,
        )


def prepared(weight: FrozenWeight, data: QuantParams, adds_in_float: bool) -> PreparedWeight:
    """Returns the weight prepared for this grid; for the same weight and an equal grid the same object.

    ``adds_in_float``: whether the bias is added in float, behind the accumulator.
    """
    key = "prepared", adds_in_float
    kept: PreparedWeight | None = weight.made_of_it.get(key)
    if kept is None or not _is_same_grid(kept.data, data):
        kept = weight.made_of_it[key] = _prepare(weight, data, adds_in_float)
    return kept


def _prepare(weight: FrozenWeight, data: QuantParams, adds_in_float: bool) -> PreparedWeight:
    bias, params = None, weight.params
    if weight.bias is not None and not adds_in_float:
        bias = quantize_bias(weight.bias, data.scale, params.scale)
    largest = float(bias.abs().max()) if bias is not None and bias.numel() else 0.0
    step = requantize.wide_scale(data) * params.scale.double()
    return PreparedWeight(
        weight=weight,
        data=data,
        bias=bias,
        float_bias=weight.bias.double() if weight.bias is not None and adds_in_float else None,
        step=step.reshape(weight.op.channel_shape) if step.dim() else step,
        int8=int8_functions(requantize.limits_of(data), weight.sums, largest, weight.integers, weight.packed),
        single_bias=None if bias is None else bias.float(),
    )


def _is_same_grid(a: QuantParams, b: QuantParams) -> bool:
    return a is b or (a.num_bits == b.num_bits and torch.equal(a.scale, b.scale) and torch.equal(a.offset, b.offset))
