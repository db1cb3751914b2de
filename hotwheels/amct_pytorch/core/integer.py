"""The integer network's arithmetic in torch (SPEC 10): exact products, one rounding per grid.

Integers travel as float64 (exact up to 2^53) or, where a bound proves it exact, as float32 inside one product.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .affine import quantize
from .params import QuantParams
from .spec import QuantSpec

INT32_MAX = 2**31 - 1
_FLOAT32_EXACT = 2**24  # integers up to here, and all sums that stay below, are exact in float32


class Accumulator(Tensor):
    """Real values of a CUBE operation which remember the exact integers behind them.

    The tensor itself holds ``integers * step`` in float64. Any operation on it gives a plain float64 tensor, as SPEC
    10.4 asks for; only a quantized consumer looks at the integers, and rounds them once (SPEC 10.3).
    """

    integers: Tensor
    step: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    def like(self, real: Tensor) -> Accumulator:
        """Returns ``real``, the same values otherwise laid out in memory, with the integers of this one."""
        copied = real.as_subclass(Accumulator)
        copied.integers, copied.step = self.integers, self.step
        return copied

    @staticmethod
    def of(integers: Tensor, step: Tensor) -> Accumulator:
        """Makes one from integer-valued ``integers`` (float64) and ``step`` (float64, broadcasts against them)."""
        real = (integers * step).as_subclass(Accumulator)
        real.integers, real.step = integers, step
        return real


def to_integers(x: Tensor, params: QuantParams) -> Tensor:
    """Returns the float64 integers of ``x`` on the grid of ``params``, offset still included (SPEC 10.2, 10.3)."""
    if isinstance(x, Accumulator):
        return requantize(x, params)
    return quantize(x, params.scale, params.offset, params.num_bits).double()


def requantize(x: Accumulator, params: QuantParams) -> Tensor:
    """Returns ``clip(rhe(fl32(acc) * M) + offset)`` with ``M = fl32(s_x * s_w / s_y)`` (SPEC 10.3)."""
    spec = QuantSpec(num_bits=params.num_bits)
    multiplier = (x.step / params.scale.double()).float()
    steps = torch.round(x.integers.float() * multiplier).double()
    return (steps + params.offset).clamp_(spec.qmin, spec.qmax)


def to_real(integers: Tensor, params: QuantParams) -> Tensor:
    """Returns ``(q - offset) * scale`` in float64 (SPEC 10.4)."""
    return (integers - params.offset) * params.scale.double()


def shift(accumulator: Tensor, shift_bit: Tensor) -> Tensor:
    """Returns ``clip(floor(acc / 2^N), int16) * 2^N``; where N is 0 the accumulator itself (SPEC 10.3).

    ``shift_bit`` broadcasts against ``accumulator``.
    """
    power = torch.exp2(shift_bit.double())
    shifted = torch.floor(accumulator / power).clamp_(-(2**15), 2**15 - 1) * power
    return torch.where(shift_bit > 0, shifted, accumulator)


def worst_overflow(accumulator: Tensor) -> float | None:
    """Returns the value furthest outside int32, or None if all fit."""
    if accumulator.numel() == 0:
        return None
    low, high = (float(end) for end in torch.aminmax(accumulator))
    worst = high if high >= -low else low
    return worst if not -INT32_MAX - 1 <= worst <= INT32_MAX else None


def exact_product(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, bound: float) -> Tensor:
    """Returns ``product(x, weight)`` of integer-valued tensors exactly, as float64.

    ``bound`` is an upper bound of the sum of absolute products behind one result. Below 2^24 float32 is exact in
    whatever order the sum is made; else float64 (exact up to 2^53, which no 16 x 8 bit layer reaches).
    """
    if bound < _FLOAT32_EXACT:
        return product(x.float(), weight.float()).double()
    return product(x.double(), weight.double())


def product_bound(x: Tensor, weight_output_first: Tensor) -> float:
    """Returns ``max|x| * max_c sum|w_c|``, the bound ``exact_product`` wants for a layer with weights."""
    if x.numel() == 0 or weight_output_first.numel() == 0:
        return 0.0
    return float(x.abs().max()) * float(weight_output_first.flatten(1).abs().sum(1).max())


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Returns the exact float64 product of two integer-valued tensors."""
    bound = 0.0
    if left.numel() and right.numel():
        bound = float(left.abs().max()) * float(right.abs().max()) * left.shape[-1]
    return exact_product(torch.matmul, left, right, bound)


def avg_pool2d_sum(
    x: Tensor,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,  # noqa: ANN001 - as F.avg_pool2d
    count_include_pad=True,
    divisor_override=None,
) -> tuple[Tensor, Tensor]:  # noqa: ANN001
    """Returns (exact window sums, divisor of each position) of ``F.avg_pool2d`` with the same arguments."""
    window = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    sums = F.avg_pool2d(x, **window, divisor_override=1)
    if divisor_override:
        return sums, torch.full((), float(divisor_override), dtype=torch.float64, device=x.device)
    ones = torch.ones((1, 1, *x.shape[-2:]), dtype=torch.float64, device=x.device)
    count = F.avg_pool2d(ones, **window, divisor_override=1)
    divisor = torch.round(count / F.avg_pool2d(ones, **window, count_include_pad=count_include_pad))
    return sums, divisor.reshape(divisor.shape[-2:])


def adaptive_avg_pool2d_sum(x: Tensor, output_size) -> tuple[Tensor, Tensor]:  # noqa: ANN001 - as F.adaptive_avg_pool2d
    """Returns (exact window sums, divisor of each position) of ``F.adaptive_avg_pool2d``."""
    mean = F.adaptive_avg_pool2d(x, output_size)
    height, width = (_adaptive_windows(full, part, x) for full, part in zip(x.shape[-2:], mean.shape[-2:], strict=True))
    divisor = height[:, None] * width[None, :]
    return torch.round(mean * divisor), divisor  # the float64 mean is off by far less than half an integer


def _adaptive_windows(full: int, parts: int, x: Tensor) -> Tensor:
    """Sizes of the windows into which adaptive pooling cuts one axis."""
    index = torch.arange(parts, dtype=torch.float64, device=x.device)
    return torch.ceil((index + 1) * full / parts) - torch.floor(index * full / parts)
