"""Fake quantization with a range whose ends are learned (spec 5.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core import native
from ...core.affine import fake_quantize, fake_quantize_and_look, real_ends
from ...core.params import QuantParams
from ...core.spec import QuantSpec
from .owned_gradient import counts_if_owned, is_owned
from .recompute import normalized_again, recomputing
from .second_gradient import refuse_second


def learned_range(
    x: Tensor,
    low: Tensor,
    high: Tensor,
    params: QuantParams,
    factor: float = 1.0,
    on_nan: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Returns the grid points of ``x``, with gradients for ``x`` and for both ends of the range (spec 5.2).

    Args:
      x: Any floating tensor.
      low: Lower end of the range from which ``params`` was computed, a scalar.
      high: Upper end, a scalar.
      params: The grid, with one scale for the tensor.
      factor: Factor on the gradients of both ends.
      on_nan: Called with ``x`` if it holds NaN.
    """
    with recomputing((x,), normalized_again):
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
        """Returns the grid points of ``x``; saves ``x``, which other operations keep in memory anyway."""
        # Guards and optimizers change the ends in place; the clones keep this graph valid until its backward.
        ctx.save_for_backward(x, low.detach().clone(), high.detach().clone(), scale, offset)
        ctx.num_bits, ctx.factor = num_bits, factor
        counts_if_owned()
        if on_nan is None:
            return fake_quantize(x, scale, offset, num_bits)
        result, has_nan = fake_quantize_and_look(x, scale, offset, num_bits)
        if has_nan:
            on_nan(x)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients; that of ``x`` overwrites the incoming gradient if this backward alone holds it.

        With ``create_graph`` the gradient of ``x`` can be differentiated again, those of the ends are refused then.
        """
        may_overwrite = is_owned(grads[0])  # a statement of its own: another use of grads[0] in it would be counted
        if not torch.is_grad_enabled():
            return _gradients(ctx, grads[0], may_overwrite)
        with torch.no_grad():
            _, of_low, of_high, *_ = _gradients(ctx, grads[0], may_overwrite=False)
        x, _, _, scale, offset = ctx.saved_tensors
        bottom, top = real_ends(scale, offset, ctx.num_bits)
        grad_x = torch.where((x < bottom) | (x > top), 0.0, grads[0])
        of_low, of_high = refuse_second(of_low, grads[0], x), refuse_second(of_high, grads[0], x)
        return grad_x, of_low, of_high, None, None, None, None, None


def _gradients(ctx: Any, grad: Tensor, may_overwrite: bool) -> tuple[Any, ...]:
    """Returns what the backward of a learned range returns for the gradient ``grad`` of its result."""
    x, low, high, scale, offset = ctx.saved_tensors
    x, grad_x = _same_layout(x, grad, may_overwrite)
    if native.handles(x, grad_x):
        of_low, of_high = _gradients_of_ends(ctx, x, grad_x, (low, high, scale, offset))
        return grad_x, low.new_tensor(of_low), high.new_tensor(of_high), None, None, None, None, None
    ends = real_ends(scale, offset, ctx.num_bits)
    inside, below, above = _take_inside(x, grad_x, scale, *ends)
    # sum(e * g) of spec 5.2: outside the range e is a constant, the rounding error of the end itself.
    moved = inside + above * _rounding_error(high, scale) + below * _rounding_error(low, scale)
    moved /= QuantSpec(num_bits=ctx.num_bits).levels
    grads_of_ends = ((below - moved) * ctx.factor).to(low.dtype), ((above + moved) * ctx.factor).to(high.dtype)
    return grad_x, *grads_of_ends, None, None, None, None, None


def _gradients_of_ends(ctx: Any, x: Tensor, grad: Tensor, saved: Sequence[Tensor]) -> tuple[float, float]:
    """Puts 0 into ``grad`` where ``x`` is clipped; returns the gradients of both ends, by the formulas of `_gradients`.

    In Python's float64 instead of with four dozen operations on tensors of one element. ``saved`` are low, high, scale
    and offset, since a checkpoint allows a backward to read its saved tensors once.
    """
    low, high, scale, offset = saved
    spec, step, zero = QuantSpec(num_bits=ctx.num_bits), scale.item(), int(offset)
    # The products are exact in float64, and rounded to float32 once, as on tensors, when the kernel takes them.
    sums = native.learned_range(x, grad, step, (spec.qmin - zero) * step, (spec.qmax - zero) * step)
    inside, below, above = sums.tolist()
    errors = np.array([high.item(), low.item()]) / step
    of_high, of_low = (np.rint(errors) - errors).tolist()
    moved = (inside + above * of_high + below * of_low) / spec.levels
    return (below - moved) * ctx.factor, (above + moved) * ctx.factor


def _same_layout(x: Tensor, grad: Tensor, may_overwrite: bool) -> tuple[Tensor, Tensor]:
    """Returns ``x``, dense, and ``grad`` in the same memory order; ``grad`` is copied unless it may be overwritten.

    The copy is avoided because a new tensor costs as much time as all of the arithmetic.
    """
    x = x if native.is_dense(x) else x.contiguous()
    if may_overwrite and grad.stride() == x.stride():
        return x, grad
    return x, torch.empty_like(x).copy_(grad)


def _take_inside(x: Tensor, grad: Tensor, scale: Tensor, bottom: Tensor, top: Tensor) -> Tensor:
    """Puts 0 into ``grad`` where ``x`` is clipped, as the kernel does.

    Returns the sums of (rhe(v) - v) * g inside the range, of g below it and of g above it, float64 [3].
    """
    steps = x / scale.to(x.dtype)
    error = torch.round(steps).sub_(steps)  # NaN for infinities, which are clipped
    below, above = x < bottom, x > top
    sums = [torch.where(where, grad, 0.0).sum(dtype=torch.float64) for where in (below, above)]
    is_clipped = below.logical_or_(above)
    inside = error.mul_(grad).masked_fill_(is_clipped, 0.0).sum(dtype=torch.float64)
    grad.masked_fill_(is_clipped, 0.0)
    return torch.stack([inside, *sums])


def _rounding_error(end: Tensor, scale: Tensor) -> Tensor:
    steps = end.double() / scale
    return torch.round(steps) - steps
