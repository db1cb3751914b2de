"""The integer network's arithmetic in torch (spec 10): one rounding per grid, shifts, sums of poolings.

Integers travel as float32 (up to 2^24, so every quantized tensor) or float64, without the offset of their grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import native
from .accumulator import Accumulator, Deferred, Factors, Piece, Sum, Table, pieces_of, rows_of
from .exact_product import FLOAT32_EXACT, Range
from .params import QuantParams
from .spec import QuantSpec

INT32_MAX = 2**31 - 1


def limits_of(params: QuantParams) -> Range:
    """Returns the smallest and the largest ``q - offset`` of the grid."""
    spec, offset = QuantSpec(num_bits=params.num_bits), int(params.offset)
    return Range(spec.qmin - offset, spec.qmax - offset)


def to_integers(x: Tensor, params: QuantParams) -> Tensor:
    """Returns the integers of ``x`` on the grid of ``params`` without the offset, float32 (spec 10.2, 10.3).

    ``clip(rhe(x / scale) + offset, Qmin, Qmax) - offset``, divided in the type of ``x``. For an `Accumulator`,
    ``rhe(fl32(acc) * M)`` replaces ``rhe(x / scale)``, with ``M = fl32(s_x * s_w / s_y)`` and the quotient in float64.
    NaN stays NaN.
    """
    limits = limits_of(params)
    if isinstance(x, Accumulator):
        integers, factor = x.integers, multiplier(x, params)
        columns = _columns(integers, factor)
        if columns is not None:
            out = torch.empty_like(integers, dtype=torch.float32)
            native.requantize(integers, out, columns, (limits.low, limits.high))
            return out
        return _by_pieces(lambda at: integers[at].float() * rows_of(factor, at), integers, limits)
    if isinstance(x, Deferred):
        found = _of_form(x.form, params.scale.item(), limits)
        if found is not None:
            return found
        scale = params.scale.double()
        return _by_pieces(lambda at: x.part(at) / scale, x.carrier, limits)
    scale = params.scale.to(x.dtype)
    return _by_pieces(lambda at: x[at] / scale, x, limits)


def _of_form(form: Sum | Factors | Table | None, scale: float, limits: Range) -> Tensor | None:
    """Returns `to_integers` of the values of ``form`` in one pass; None if the kernels do not fit."""
    ends = (limits.low, limits.high)
    if isinstance(form, Table):
        table = (form.values / scale).round_().clamp_(*ends).float()
        return _looked_up(form, table) if form.integers.numel() else None
    if isinstance(form, Factors):
        return _of_product(form, scale, ends)
    if form is None:
        return None
    if len(form.terms) == 1:
        ((integers, step),) = form.terms
        columns = _columns(integers, step)
        bias = columns if form.bias is None else _columns(integers, form.bias)
        if columns is None or bias is None:
            return None
        out = torch.empty_like(integers, dtype=torch.float32)
        bias = torch.zeros_like(columns) if form.bias is None else bias
        native.requantize_affine(integers, out, columns, bias, form.ends, scale, ends)
        return out
    (a, step_a), (b, step_b) = form.terms
    if not a.numel() or not native.handles(a, b) or not native.has_integer_kernels():
        return None
    out = torch.empty_like(a)
    native.requantize_total(((a, step_a.item()), (b, step_b.item())), out, form.ends, scale, ends)
    return out


def _looked_up(form: Table, table: Tensor) -> Tensor:
    """Returns the elements of ``table``, float32, at the integers of ``form``; of their shape and layout."""
    integers = form.integers
    if not native.handles(integers) or not native.has_integer_kernels():
        return table[(integers - form.first).long()]
    out = torch.empty_like(integers)
    native.look_up(integers, out, table, form.first)
    return out


def _of_product(form: Factors, scale: float, ends: tuple[int, int]) -> Tensor | None:
    (a, step_a), (b, step_b) = form.terms
    if not a.numel() or not native.handles(a) or not native.handles(b) or not native.has_integer_kernels():
        return None
    if a.shape == b.shape and a.stride() == b.stride():
        blocks, rows, columns, is_row = 1, 1, a.numel(), True
    elif a.dim() == b.dim() == 4 and b.shape == (*a.shape[:2], 1, 1):
        is_row = a.is_contiguous(memory_format=torch.channels_last)
        channels, pixels = a.shape[1], a.shape[2] * a.shape[3]
        blocks, rows, columns = (len(a), pixels, channels) if is_row else (len(a), channels, pixels)
    else:
        return None
    out = torch.empty_like(a)
    native.requantize_product(
        ((a, step_a.item()), (b, step_b.item())), out, (blocks, rows, columns), is_row, scale, ends
    )
    return out


def _columns(integers: Tensor, values: Tensor) -> Tensor | None:
    """Returns ``values``, one for all or one per channel, as the kernels take them; None if the kernels do not fit.

    The channels are the last axis, or the axis 1 of images in the order channels last.
    """
    if not native.has_integer_kernels() or not integers.numel() or integers.device.type != "cpu":
        return None
    if integers.dtype not in (torch.float32, torch.float64):
        return None
    shape: tuple[int, ...]
    if integers.dim() == 4 and integers.is_contiguous(memory_format=torch.channels_last):
        channels, shape = integers.shape[1], (integers.shape[1], 1, 1)
    elif integers.dim() and integers.is_contiguous():
        channels, shape = integers.shape[-1], (integers.shape[-1],)
    else:
        return None
    return values.expand(shape).reshape(channels).contiguous() if values.shape in ((), shape) else None


def multiplier(x: Accumulator, params: QuantParams) -> Tensor:
    """Returns ``M = fl32(s_x * s_w / s_y)``, the quotient in float64 (spec 10.3)."""
    return (x.step / params.scale.double()).float()


def _by_pieces(steps: Callable[[Piece], Tensor], like: Tensor, limits: Range) -> Tensor:
    """Rounds and clips the ``steps`` of all pieces; the result has the shape and the layout of ``like``."""
    out = torch.empty_like(like, dtype=torch.float32)
    for at in pieces_of(like):
        out[at] = steps(at).round_().clamp_(limits.low, limits.high)
    return out


def to_real(integers: Tensor, params: QuantParams) -> Tensor:
    """Returns ``(q - offset) * scale`` in float64 (spec 10.4) of integers without offset."""
    return integers.double().mul_(params.scale.double())


def shift(accumulator: Tensor, shift_bit: Tensor) -> Tensor:
    """Returns ``clip(floor(acc / 2^N), int16) * 2^N`` (spec 10.3), in the memory of ``accumulator``.

    ``shift_bit`` holds N in 1..16 and broadcasts against ``accumulator``. Exact in floating point.
    """
    power = torch.exp2(shift_bit.to(accumulator.dtype))
    return accumulator.div_(power).floor_().clamp_(-(2**15), 2**15 - 1).mul_(power)


def worst_overflow(accumulator: Tensor, bound: float = math.inf) -> float | None:
    """Returns the value furthest outside int32; None if all fit.

    No magnitude exceeds ``bound``. A float32 accumulator fits always: its integers are below 2^24.
    """
    if accumulator.numel() == 0 or accumulator.dtype == torch.float32 or bound <= INT32_MAX:
        return None
    if accumulator.dim() == 4:  # contiguous in this order (channels last); aminmax would copy it otherwise
        accumulator = accumulator.permute(0, 2, 3, 1)
    low, high = (float(end) for end in torch.aminmax(accumulator))
    worst = high if high >= -low else low
    return worst if not -INT32_MAX - 1 <= worst <= INT32_MAX else None


def avg_pool2d_sum(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns (exact window sums in float64, divisor of each position) of ``F.avg_pool2d`` with the same arguments."""
    x = x.double()
    window: dict[str, Any] = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    sums = F.avg_pool2d(x, **window, divisor_override=1)
    if divisor_override:
        return sums, torch.full((), float(divisor_override), dtype=torch.float64, device=x.device)
    ones = torch.ones((1, 1, *x.shape[-2:]), dtype=torch.float64, device=x.device)
    count = F.avg_pool2d(ones, **window, divisor_override=1)
    divisor = torch.round(count / F.avg_pool2d(ones, **window, count_include_pad=count_include_pad))
    return sums, divisor.reshape(divisor.shape[-2:])


def adaptive_avg_pool2d_sum(x: Tensor, output_size: Any, limits: Range) -> tuple[Tensor, Tensor]:
    """Returns (exact window sums in float64, divisor of each position) of ``F.adaptive_avg_pool2d``.

    ``x`` holds integers in ``limits``.
    """
    area = x.shape[-2] * x.shape[-1]
    is_global = output_size in (1, (1, 1), [1, 1])
    if is_global and 0 < area * max(limits.high, -limits.low) < FLOAT32_EXACT:  # float32 holds all partial sums
        divisor = torch.full((1, 1), float(area), dtype=torch.float64, device=x.device)
        return x.sum((-2, -1), keepdim=True).double(), divisor
    mean = F.adaptive_avg_pool2d(x.double(), output_size)
    height, width = (_adaptive_windows(full, part, x) for full, part in zip(x.shape[-2:], mean.shape[-2:], strict=True))
    divisor = height[:, None] * width[None, :]
    return torch.round(mean * divisor), divisor  # the float64 mean is off by far less than half an integer


def _adaptive_windows(full: int, parts: int, x: Tensor) -> Tensor:
    """Sizes of the windows into which adaptive pooling cuts one axis."""
    index = torch.arange(parts, dtype=torch.float64, device=x.device)
    return torch.ceil((index + 1) * full / parts) - torch.floor(index * full / parts)
