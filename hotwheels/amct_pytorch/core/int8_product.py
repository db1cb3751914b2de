"""Products of 8-bit integers in oneDNN's int8 kernels, which take a fifth of the time of float32 or less.

They are exact under two conditions, both checked here. The processor multiplies and adds bytes in 32 bits (VNNI, AMX);
older ones add pairs of products in 16 bits, which saturate. And no sum can reach 2^24 in magnitude, neither that of the
data itself nor that of the data as unsigned bytes (`int8_functions`): then the accumulator does not overflow, and
wherever a kernel subtracts the zero point and converts to float32, float32 holds all the integers exactly.

A product falls back to float32, with the same result, if the kernels do not pay: for few sums per weight the packing of
the weight takes longer than the product.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..torch_private import has_int8_products, int8_convolution, int8_matrix_product, pack_int8_convolution
from .exact_product import FLOAT32_EXACT, Range, RowSums
from .native import handles, has_integer_kernels, to_bytes

_BYTE = Range(0, 255)
_LEAST_PRODUCTS = 1 << 21  # of a call: below it float32 takes less than 0.1 ms
_LEAST_TERMS = 16  # of a sum; torch._int_mm of torch 2.13 is wrong for sums of a single term
_MOST_KEPT = 4  # forms of a weight: two halves of wide data, for two sizes of the image
_LEAST_POSITIONS = 128  # of a convolution's output, for each of which a packed weight is used again


@dataclasses.dataclass(frozen=True)
class _Setting:
    """The settings of a 2-D convolution."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    def positions(self, shape: torch.Size, weight: torch.Size) -> int:
        """Returns the number of pixels of an image of the result, from the shapes of the data and the weight."""
        height, width = (
            (shape[axis + 2] + 2 * self.padding[axis] - self.dilation[axis] * (weight[axis + 2] - 1) - 1)
            // self.stride[axis]
            + 1
            for axis in range(2)
        )
        return height * width


@dataclasses.dataclass(frozen=True)
class Int8Functions:
    """The functions of torch.nn.functional that have a faster form for integers in ``limits``.

    Convolutions have it without groups, and with a group for each channel of the data and of the result.

    Arguments are those of torch's functions: data and bias in float32, the weight in int8. See `int8_functions`.

    Attributes:
      limits: Smallest and largest integer of the data.
      whole: The weight that `kept` belongs to, which nobody changes; other weights are packed for each product.
      kept: What is made of ``whole``, for the next products with it.
    """

    limits: Range
    whole: Tensor | None = None
    kept: dict[Hashable, Any] = dataclasses.field(default_factory=dict)

    def conv2d(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        """Returns ``F.conv2d`` of the same arguments, float32."""
        setting = _setting_for(input, weight, stride, padding, dilation, groups)
        if setting is None:
            return F.conv2d(input, weight.float(), bias, stride, padding, dilation, groups)
        return self._conv2d(input, weight, bias, setting)

    def takes_unsigned(self, input: Tensor, weight: Tensor, module: Any) -> bool:
        """Whether `conv2d_of_unsigned` computes the Conv2d ``module`` for data of the shape of ``input``."""
        return self._setting_of(input, weight, module) is not None

    def conv2d_of_unsigned(self, unsigned: Tensor, weight: Tensor, bias: Tensor | None, module: Any) -> Tensor:
        """Returns `conv2d` of the uint8 integers ``unsigned``, counted from the lowest of ``limits``, for a Conv2d."""
        setting = self._setting_of(unsigned, weight, module)
        assert setting is not None
        return self._of_bytes(unsigned.contiguous(memory_format=torch.channels_last), weight, bias, setting)

    @staticmethod
    def _setting_of(input: Tensor, weight: Tensor, module: Any) -> _Setting | None:
        is_plain = weight.dim() == 4 and module.padding_mode == "zeros" and getattr(module, "margins", None) is None
        if not is_plain:
            return None
        return _setting_for(input, weight, module.stride, module.padding, module.dilation, module.groups)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Returns ``F.linear`` of the same arguments, float32."""
        terms = weight.shape[1]
        if terms < _LEAST_TERMS or input.numel() // terms * weight.numel() < _LEAST_PRODUCTS:
            return F.linear(input, weight.float(), bias)
        middle = self.limits.low + 128  # of the range: the data minus this is a signed byte
        rows = (input - middle if middle else input).to(torch.int8).reshape(-1, input.shape[-1])
        sums = int8_matrix_product(rows, weight.contiguous().t()).reshape(*input.shape[:-1], len(weight)).float()
        if middle:
            sums += self._keep(weight, middle, lambda: weight.sum(1, dtype=torch.int32) * middle)
        return sums if bias is None else sums.add_(bias)

    def _conv2d(self, x: Tensor, weight: Tensor, bias: Tensor | None, setting: _Setting) -> Tensor:
        zero = -self.limits.low
        data = to_bytes(x, zero) if handles(x) and has_integer_kernels() else (x + zero).to(torch.uint8)
        return self._of_bytes(data, weight, bias, setting)

    def _of_bytes(self, data: Tensor, weight: Tensor, bias: Tensor | None, setting: _Setting) -> Tensor:
        """Returns the convolution of ``data + limits.low``, in the order channels last."""
        zero = -self.limits.low
        given = setting.stride, setting.padding, setting.dilation, setting.groups
        key = zero, str(given), data.shape
        packed = self._keep(weight, key, lambda: pack_int8_convolution(weight, zero, *given, list(data.shape)))
        return int8_convolution(data, zero, packed, bias, *given)

    def _keep(self, weight: Tensor, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Returns ``make()`` or, for the ``whole`` weight, what it has returned for ``key`` before."""
        if weight is not self.whole:
            return make()
        found: Tensor | None = self.kept.get(key)
        if found is None:
            if len(self.kept) >= _MOST_KEPT:
                self.kept.clear()
            found = self.kept[key] = make()
        return found

    @staticmethod
    def conv1d(input: Tensor, weight: Tensor, *args: Any) -> Tensor:
        """Returns ``F.conv1d`` of the same arguments, float32."""
        return F.conv1d(input, weight.float(), *args)

    @staticmethod
    def conv_transpose1d(input: Tensor, weight: Tensor, *args: Any) -> Tensor:
        """Returns ``F.conv_transpose1d`` of the same arguments, float32."""
        return F.conv_transpose1d(input, weight.float(), *args)

    @staticmethod
    def conv_transpose2d(input: Tensor, weight: Tensor, *args: Any) -> Tensor:
        """Returns ``F.conv_transpose2d`` of the same arguments, float32."""
        return F.conv_transpose2d(input, weight.float(), *args)


def int8_functions(
    limits: Range, sums: RowSums, bias: float, whole: Tensor | None = None, kept: dict[Hashable, Any] | None = None
) -> Int8Functions | None:
    """Returns functions for data inside ``limits``, weights of these ``sums`` and biases up to ``bias``.

    None if the kernels are missing, or might not be exact. See `Int8Functions` for ``whole`` and ``kept``.
    """
    if limits.high - limits.low > _BYTE.high or not is_exact():
        return None
    largest = max(limits.bound_of(sums), _BYTE.bound_of(sums)) + bias
    return Int8Functions(limits, whole, {} if kept is None else kept) if largest < FLOAT32_EXACT else None


@functools.cache
def is_exact() -> bool:
    """Whether torch has the kernels, and computes the products that saturate in 16 bits exactly."""
    if not has_int8_products():
        return False
    functions = Int8Functions(Range(-128, 127))
    for channels, size, groups in ((64, 3, 1), (64, 1, 1), (3, 3, 1), (64, 3, 64)):
        x = torch.full((1, channels, 16, 16), 127.0).contiguous(memory_format=torch.channels_last)
        weight = torch.full((channels, channels // groups, size, size), 127.0)
        found = functions._conv2d(x, weight.to(torch.int8), None, _Setting([1, 1], [1, 1], [1, 1], groups))
        if not torch.equal(found, F.conv2d(x, weight, None, 1, 1, 1, groups)):
            return False
    x, weight = torch.full((64, 128), 127.0), torch.full((256, 128), 127.0)
    return torch.equal(functions.linear(x, weight.to(torch.int8)), F.linear(x, weight))


def _setting_for(
    input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int
) -> _Setting | None:
    """Returns the settings of a convolution for the int8 kernels; None if they are wrong, or do not pay."""
    if input.dim() != 4 or isinstance(padding, str):
        return None
    given = _pair(stride), _pair(padding), _pair(dilation)
    return _setting_of_shapes(input.shape, weight.shape, *given, groups, _LEAST_POSITIONS, _LEAST_PRODUCTS)


@functools.lru_cache(maxsize=4096)
def _setting_of_shapes(
    shape: torch.Size,
    weight: torch.Size,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    least_positions: int,
    least_products: int,
) -> _Setting | None:
    # oneDNN's kernels of torch 2.13 are wrong for other groups, such as 8 groups of 24 channels.
    takes_groups = groups == 1 or groups == weight[0] == shape[1]
    if not takes_groups or not shape.numel():
        return None
    setting = _Setting([*stride], [*padding], [*dilation], groups)
    positions = shape[0] * setting.positions(shape, weight)
    pays = positions >= least_positions and positions * weight.numel() >= least_products
    return setting if pays else None


def _pair(value: Any) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else (*value,) * (2 // len(value))
