"""Fake quantization with a range whose ends are learned (SPEC 5.2), in as few passes over the tensor as possible."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.affine import fake_quantize
from ..core.blocks import block_size, blocks, is_dense
from ..core.params import QuantParams
from ..core.spec import QuantSpec
from .owned_gradient import counts_if_owned, is_owned

_ROW = 256  # elements looked at together in search of clipped ones
_hardtanh_backward = torch.ops.aten.hardtanh_backward
_threshold_backward = torch.ops.aten.threshold_backward


def learned_range(
    x: Tensor,
    low: Tensor,
    high: Tensor,
    params: QuantParams,
    factor: float = 1.0,
    on_nan: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Returns the grid points of ``x``, with gradients for ``x`` and for both ends of the range (SPEC 5.2).

    Args:
      x: Any floating tensor.
      low: Lower end of the range which ``params`` was computed from, a scalar.
      high: Upper end, a scalar.
      params: The grid, one for the tensor.
      factor: What the gradients of both ends are multiplied by.
      on_nan: Called with ``x`` if it holds NaN.
    """
    return LearnedRange.apply(  # type: ignore[no-any-return, no-untyped-call]
        x, low, high, params.scale, params.offset, params.num_bits, factor, on_nan
    )


class LearnedRange(torch.autograd.Function):
    """The autograd function of `learned_range`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        low: Tensor,
        high: Tensor,
        scale: Tensor,
        offset: Tensor,
        num_bits: int,
        factor: float,
        on_nan: Callable[[Tensor], None] | None,
    ) -> Tensor:
        """Rounds; keeps ``x``, which is alive anyway, and the extremes of its blocks."""
        # The ends are trained in place by guards and optimizers; clones keep this graph valid until its backward.
        ctx.save_for_backward(x, low.detach().clone(), high.detach().clone(), scale, offset)
        ctx.num_bits, ctx.factor, ctx.extremes = num_bits, factor, []
        counts_if_owned()
        result = fake_quantize(x, scale, offset, num_bits, extremes=ctx.extremes)
        if on_nan is not None and _may_hold_nan(x, ctx.extremes):
            on_nan(x)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients; that of ``x`` in the memory of the incoming one, if nobody else holds this."""
        x, low, high, scale, offset = ctx.saved_tensors
        may_overwrite = is_owned(grads[0])  # asked alone: a second use of grads[0] in the same expression would count
        x, grad_x = _same_layout(x, grads[0], may_overwrite)
        step = scale.item()
        inside, below, above = _take_inside(x, grad_x, step, int(offset), ctx.num_bits, ctx.extremes)
        # sum(e * g) of SPEC 5.2: outside the range e is a constant, the rounding error of the end itself.
        moved = inside + above * _rounding_error(high.item() / step) + below * _rounding_error(low.item() / step)
        moved /= QuantSpec(num_bits=ctx.num_bits).levels
        grads_of_ends = low.new_tensor((below - moved) * ctx.factor), high.new_tensor((above + moved) * ctx.factor)
        return grad_x, *grads_of_ends, None, None, None, None, None


def _may_hold_nan(x: Tensor, extremes: list[tuple[float, float]]) -> bool:
    if extremes or not x.numel():
        return any(math.isnan(low) for low, _ in extremes)
    return bool(x.sum().isnan())  # one cheap pass; the sum of infinities is NaN too


def _same_layout(x: Tensor, grad: Tensor, may_overwrite: bool) -> tuple[Tensor, Tensor]:
    """Returns ``x``, dense, and ``grad`` in the same memory order, as a copy unless it may be overwritten.

    A new tensor would cost as much time as all of the arithmetic.
    """
    x = x if is_dense(x) else x.contiguous()
    if may_overwrite and grad.stride() == x.stride():
        return x, grad
    return x, torch.empty_like(x).copy_(grad)


def _take_inside(
    x: Tensor, grad: Tensor, step: float, offset: int, num_bits: int, extremes: list[tuple[float, float]]
) -> tuple[float, float, float]:
    """Puts 0 into ``grad`` where ``x`` is clipped.

    Returns the sums of (rhe(v) - v) * g inside the range, of g below it and of g above it. Works on numbers of the
    host, block by block. Mostly few elements are clipped or none, so those are looked for first.
    """
    ends, largest = _Ends.of(step, offset, num_bits, x.dtype), torch.finfo(x.dtype).max
    inside = below = above = 0.0
    buffers = torch.empty(2, min(block_size(x), x.numel()), dtype=x.dtype, device=x.device)
    pieces = blocks(x)
    known = extremes if len(extremes) == len(pieces) else [(-math.inf, math.inf)] * len(pieces)
    for piece, upstream, (low, high) in zip(pieces, blocks(grad), known, strict=True):
        steps, error = buffers[:, : piece.numel()]
        torch.div(piece, step, out=steps)
        if low < ends.bottom or high > ends.top:
            dropped = _drop_clipped(piece, upstream, ends, low < ends.bottom, high > ends.top)
            below, above = below + dropped[0], above + dropped[1]
        if max(-low, high) / step > largest:
            steps.clamp_(ends.bottom / step, ends.top / step)  # infinities have no rounding error
        torch.round(steps, out=error).sub_(steps)
        inside += torch.dot(upstream, error).item()
    return inside, below, above


@dataclasses.dataclass(frozen=True)
class _Ends:
    """The lowest and the highest value that is not clipped, and their neighbours outside, as numbers of the host."""

    bottom: float
    top: float
    under: float
    over: float

    @classmethod
    def of(cls, step: float, offset: int, num_bits: int, dtype: torch.dtype) -> _Ends:
        """Returns those of this grid."""
        spec = QuantSpec(num_bits=num_bits)
        ends = torch.tensor([(spec.qmin - offset) * step, (spec.qmax - offset) * step], dtype=dtype)
        beyond = torch.nextafter(ends, torch.tensor([-math.inf, math.inf], dtype=dtype))
        return cls(*ends.tolist(), *beyond.tolist())


def _drop_clipped(x: Tensor, grad: Tensor, ends: _Ends, is_below: bool, is_above: bool) -> tuple[float, float]:
    """Puts 0 into ``grad`` where ``x`` is clipped; returns the sums of what was there, below and above.

    ``is_below``, ``is_above``: on which sides there is something. Rows without, if these are the most, are left alone.
    """
    count = x.numel() // _ROW
    rows, grad_rows = (one[: count * _ROW].view(count, _ROW) for one in (x, grad))
    reached = [rows.amin(1) < ends.bottom] if is_below else []
    reached += [rows.amax(1) > ends.top] if is_above else []
    hit = functools.reduce(torch.logical_or, reached).nonzero().flatten()
    if hit.numel() * 4 > count:
        return _drop_among(x, grad, ends, is_below, is_above)
    picked = grad_rows[hit]
    below, above = _drop_among(rows[hit], picked, ends, is_below, is_above)
    grad_rows[hit] = picked
    if count * _ROW < x.numel():
        rest = _drop_among(x[count * _ROW :], grad[count * _ROW :], ends, is_below, is_above)
        below, above = below + rest[0], above + rest[1]
    return below, above


def _drop_among(x: Tensor, grad: Tensor, ends: _Ends, is_below: bool, is_above: bool) -> tuple[float, float]:
    """As `_drop_clipped`, with kernels of other operations, since torch has vectorized those; masks are slow."""
    below = _threshold_backward(grad, -x, -ends.bottom).sum().item() if is_below else 0.0
    above = _threshold_backward(grad, x, ends.top).sum().item() if is_above else 0.0
    _hardtanh_backward(grad, x, ends.under, ends.over, grad_input=grad)  # drops its bounds themselves
    return below, above


def _rounding_error(steps: float) -> float:
    return round(steps) - steps if math.isfinite(steps) else math.nan  # half to even
