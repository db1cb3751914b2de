"""The integer network's arithmetic in torch (spec 10): one rounding per grid, shifts, sums of poolings.

Integers travel as float32 (up to 2^24, so every quantized tensor) or float64, without the offset of their grid.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import native, native_bytes
from .accumulator import Accumulator, Deferred, Factors, Form, Joined, Piece, Sum, Table, pieces_of, rows_of
from .exact_product import FLOAT32_EXACT, Range
from .params import QuantParams
from .spec import QuantSpec

INT32_MAX = 2**31 - 1
_MOST_PIXELS = 2**23  # whose bytes are added in int32
# The step and the bias of plain values, which change no bit of them.
_ONE, _NEGATIVE_ZERO = torch.ones(1, dtype=torch.float64), torch.full((1,), -0.0, dtype=torch.float64)
_NO_ENDS = (-math.inf, math.inf)
_MOST_STEPS = 8  # of the layers in front of one grid, whose multipliers are kept


def limits_of(params: QuantParams) -> Range:
    """Returns the smallest and the largest ``q - offset`` of the grid."""
    found: Range | None = params.kept.get("limits")
    if found is None:
        spec, offset = QuantSpec(num_bits=params.num_bits), int(params.offset)
        found = params.kept["limits"] = Range(spec.qmin - offset, spec.qmax - offset)
    return found


def wide_scale(params: QuantParams) -> Tensor:
    """Returns the scale in float64, each time the same tensor."""
    found: Tensor | None = params.kept.get("wide_scale")
    if found is None:
        found = params.kept["wide_scale"] = params.scale.double()
    return found


def to_integers(x: Tensor, params: QuantParams) -> Tensor:
    """Returns the integers of ``x`` on the grid of ``params`` without the offset, float32 (spec 10.2, 10.3).

    ``clip(rhe(x / scale) + offset, Qmin, Qmax) - offset``, divided in the type of ``x``. For an `Accumulator`,
    ``rhe(fl32(acc) * M)`` replaces ``rhe(x / scale)``, with ``M = fl32(s_x * s_w / s_y)`` and the quotient in float64.
    NaN stays NaN.
    """
    limits = limits_of(params)
    found = _in_one_pass(x, params, torch.float32)
    if found is not None:
        return found
    if isinstance(x, Accumulator):
        integers, factor = x.integers, multiplier(x, params)
        return _by_pieces(lambda at: integers[at].float() * rows_of(factor, at), integers, limits)
    if isinstance(x, Deferred):
        wide = wide_scale(params)
        return _by_pieces(lambda at: x.part(at) / wide, x.carrier, limits)
    if x.dtype is torch.float64 and x.numel() and x.is_cpu and native.is_dense(x) and native.has_integer_kernels():
        out = torch.empty_like(x, dtype=torch.float32)
        native.requantize_affine(x, out, _ONE, _NEGATIVE_ZERO, _NO_ENDS, params.scale.item(), (limits.low, limits.high))
        return out
    scale = params.scale.to(x.dtype)
    return _by_pieces(lambda at: x[at] / scale, x, limits)


def to_unsigned(x: Tensor, params: QuantParams) -> Tensor | None:
    """Returns ``to_integers(x, params) - limits_of(params).low`` as uint8; ``x`` has no NaN, the grid 256 points.

    None if no kernel makes them in one pass.
    """
    return _in_one_pass(x, params, torch.uint8) if isinstance(x, Deferred) and not x.may_be_nan else None


def _in_one_pass(x: Tensor, params: QuantParams, dtype: torch.dtype) -> Tensor | None:
    """Returns the integers of ``x``: float32, or uint8 counted from the lowest; None if the kernels do not fit."""
    if not isinstance(x, Deferred) or not native.has_integer_kernels():
        return None
    limits = limits_of(params)
    if not isinstance(x, Accumulator):
        return _of_form(x.form, params.scale.item(), _Target(dtype, limits))
    integers = x.integers
    columns = _multiplier(x.step, params).columns(integers)
    if columns is None:
        return None
    target = _Target(dtype, limits)
    out = target.like(integers)
    native.requantize(integers, out, columns, target.ends, target.zero)
    return out


@dataclasses.dataclass(frozen=True)
class _Target:
    """Integers in ``limits``: float32, or uint8 counted from the lowest."""

    dtype: torch.dtype
    limits: Range

    @property
    def ends(self) -> tuple[int, int]:
        return self.limits.low, self.limits.high

    @property
    def zero(self) -> int:
        return -self.limits.low if self.dtype is torch.uint8 else 0

    def like(self, x: Tensor) -> Tensor:
        """Returns memory for integers of the shape and the order of ``x``."""
        return torch.empty_like(x, dtype=self.dtype)


def _of_form(form: Form | None, scale: float, target: _Target) -> Tensor | None:
    """Returns `to_integers` of the values of ``form`` in one pass; None if the kernels do not fit."""
    ends, zero = target.ends, target.zero
    if isinstance(form, Table):
        table = (form.values / scale).round_().clamp_(*ends).float().add_(0.0)  # an integer has no negative zero
        return _looked_up(form, table, target) if form.integers.numel() else None
    if isinstance(form, Factors):
        return _of_product(form, scale, target)
    if isinstance(form, Joined):
        parts = [_of_form(Sum((term,)), scale, target) for term in form.terms]
        known = [one for one in parts if one is not None]
        return torch.cat(known, form.axis) if len(known) == len(parts) else None
    if form is None:
        return None
    if len(form.terms) == 1:
        ((integers, step),) = form.terms
        columns = _columns(integers, step)
        bias = columns if form.bias is None else _columns(integers, form.bias)
        if columns is None or bias is None:
            return None
        out = target.like(integers)
        bias = torch.zeros_like(columns) if form.bias is None else bias
        native.requantize_affine(integers, out, columns, bias, form.ends, scale, ends, zero)
        return out
    (a, step_a), (b, step_b) = form.terms
    if a.stride() != b.stride() and a.dim() == 4 and a.is_contiguous(memory_format=torch.channels_last):
        b = b.contiguous(memory_format=torch.channels_last)
    if not a.numel() or not native.handles(a, b):
        return None
    out = target.like(a)
    native.requantize_total(((a, step_a.item()), (b, step_b.item())), out, form.ends, scale, ends, zero)
    return out


def _looked_up(form: Table, table: Tensor, target: _Target) -> Tensor | None:
    """Returns the elements of ``table``, float32, at the integers of ``form``; of their shape and layout."""
    integers = form.integers
    if integers.dtype is torch.uint8:
        out = target.like(integers)
        native_bytes.look_up_bytes(integers, out, table, target.zero)
        return out
    if not native.handles(integers):
        return None
    out = target.like(integers)
    native.look_up(integers, out, table, form.first, target.zero)
    return out


def _of_product(form: Factors, scale: float, target: _Target) -> Tensor | None:
    (a, step_a), (b, step_b) = form.terms
    if not a.numel() or not native.handles(a) or not native.handles(b):
        return None
    if a.shape == b.shape and a.stride() == b.stride():
        blocks, rows, columns, is_row = 1, 1, a.numel(), True
    elif a.dim() == b.dim() == 4 and b.shape == (*a.shape[:2], 1, 1):
        is_row = a.is_contiguous(memory_format=torch.channels_last)
        channels, pixels = a.shape[1], a.shape[2] * a.shape[3]
        blocks, rows, columns = (len(a), pixels, channels) if is_row else (len(a), channels, pixels)
    else:
        return None
    out = target.like(a)
    terms = (a, step_a.item()), (b, step_b.item())
    native.requantize_product(terms, out, (blocks, rows, columns), is_row, scale, target.ends, target.zero)
    return out


def _columns(integers: Tensor, values: Tensor) -> Tensor | None:
    """Returns ``values``, one for all or one per channel, as the kernels take them; None if the kernels do not fit.

    The channels are the last axis, or the axis 1 of images in the order channels last.
    """
    shape = _channels(integers)
    if shape is None or values.shape not in ((), shape):
        return None
    return values.expand(shape).reshape(shape[0]).contiguous()


def _channels(integers: Tensor) -> tuple[int, ...] | None:
    """Returns the shape of one value for each channel, which broadcasts; None if the kernels do not fit."""
    if not integers.numel() or not integers.is_cpu or integers.dtype not in (torch.float32, torch.float64):
        return None
    if integers.dim() == 4 and integers.is_contiguous(memory_format=torch.channels_last):
        return integers.shape[1], 1, 1
    return (integers.shape[-1],) if integers.dim() and integers.is_contiguous() else None


def multiplier(x: Accumulator, params: QuantParams) -> Tensor:
    """Returns ``M = fl32(s_x * s_w / s_y)``, the quotient in float64 (spec 10.3)."""
    return _multiplier(x.step, params).factor


def is_finite(x: Accumulator, params: QuantParams) -> bool:
    """Whether all elements of `multiplier` are finite."""
    return _multiplier(x.step, params).is_finite


class _Multiplier:
    """The multiplier from accumulators with ``step`` to one grid."""

    def __init__(self, step: Tensor, params: QuantParams) -> None:
        self.step = step
        self.factor = (step / wide_scale(params)).float()
        self.is_finite = bool(torch.isfinite(self.factor).all())
        self._columns: dict[tuple[int, ...] | None, Tensor | None] = {None: None}

    def columns(self, integers: Tensor) -> Tensor | None:
        """Returns `_columns` of these ``integers`` and the factor."""
        shape = _channels(integers)
        if shape not in self._columns:
            self._columns[shape] = _columns(integers, self.factor)
        return self._columns[shape]


def _multiplier(step: Tensor, params: QuantParams) -> _Multiplier:
    """Returns the multiplier, for the same ``step`` object and grid the same; nobody changes a step."""
    known: dict[int, _Multiplier] = params.kept.setdefault("multipliers", {})
    found = known.get(id(step))
    if found is None or found.step is not step:
        if len(known) >= _MOST_STEPS:
            known.clear()
        found = known[id(step)] = _Multiplier(step, params)
    return found


def _by_pieces(steps: Callable[[Piece], Tensor], like: Tensor, limits: Range) -> Tensor:
    """Rounds and clips the ``steps`` of all pieces; the result has the shape and the layout of ``like``."""
    out = torch.empty_like(like, dtype=torch.float32)
    for at in pieces_of(like):
        out[at] = steps(at).round_().clamp_(limits.low, limits.high)
    return out


def to_real(integers: Tensor, params: QuantParams) -> Tensor:
    """Returns ``(q - offset) * scale`` in float64 (spec 10.4) of integers without offset."""
    return integers.double().mul_(wide_scale(params))


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
    if (
        is_global(output_size) and 0 < area * max(limits.high, -limits.low) < FLOAT32_EXACT
    ):  # float32 holds all partial sums
        divisor = torch.full((1, 1), float(area), dtype=torch.float64, device=x.device)
        return x.sum((-2, -1), keepdim=True).double(), divisor
    mean = F.adaptive_avg_pool2d(x.double(), output_size)
    height, width = (_adaptive_windows(full, part, x) for full, part in zip(x.shape[-2:], mean.shape[-2:], strict=True))
    divisor = height[:, None] * width[None, :]
    return torch.round(mean * divisor), divisor  # the float64 mean is off by far less than half an integer


def is_global(output_size: Any) -> bool:
    """Whether an adaptive pooling of this size has one window."""
    return output_size in (1, (1, 1), [1, 1])


def sum_of_unsigned(unsigned: Tensor, limits: Range) -> tuple[Tensor, Tensor] | None:
    """Returns `adaptive_avg_pool2d_sum` of one window, of uint8 integers counted from the lowest; None if too large."""
    area = unsigned.shape[-2] * unsigned.shape[-1]
    if not 0 < area < _MOST_PIXELS:
        return None
    sums = native_bytes.pixel_sums(unsigned.contiguous(memory_format=torch.channels_last))
    divisor = torch.full((1, 1), float(area), dtype=torch.float64)
    return (sums.double() + area * limits.low)[..., None, None], divisor


def _adaptive_windows(full: int, parts: int, x: Tensor) -> Tensor:
    """Sizes of the windows into which adaptive pooling cuts one axis."""
    index = torch.arange(parts, dtype=torch.float64, device=x.device)
    return torch.ceil((index + 1) * full / parts) - torch.floor(index * full / parts)
