"""Fake quantization with a range whose ends are learned (spec 5.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core import native
from ...core.affine import fake_quantize, fake_quantize_and_look, real_ends
from ...core.params import QuantParams
from ...torch_private import is_node_of, version_of, was_made_by
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
        return LearnedRange.apply(x, low, high, params, factor, on_nan)  # type: ignore[no-any-return, no-untyped-call]


def is_new_result(value: Tensor) -> bool:
    """Whether ``value`` is the result of a learned range in memory of its own, which no backward reads."""
    return was_made_by(value, LearnedRange) and not value.grad_fn.is_on_grid  # type: ignore[union-attr]


def unrounded(value: Tensor) -> Callable[[], Tensor] | None:
    """Returns a function that returns the tensor which a learned range on the CPU has rounded to ``value``; else None.

    For operations whose backward reads the shape and the layout of ``value`` only, so that ``value`` is not kept. Call
    the function before the backward of that range has run.
    """
    if not value.is_cpu or not is_new_result(value):
        return None
    made_by: Any = value.grad_fn
    return lambda: made_by.saved_tensors[0].detach()


class LearnedRange(torch.autograd.Function):
    """The autograd function of `learned_range`.

    Attributes of its nodes:
      params: The grid.
      grid: The grid as numbers, see `_grid_of`; None on a device.
      is_on_grid: Whether ``x`` consists of points of the grid, so that the result shares its memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        low: Tensor,
        high: Tensor,
        params: QuantParams,
        factor: float,
        on_nan: Callable[[Tensor], None] | None,
    ) -> Tensor:
        """Returns the grid points of ``x``; saves ``x``, which other operations keep in memory anyway."""
        ctx.params, ctx.factor, ctx.grid, ctx.dtypes = params, factor, _grid_of(params), (low.dtype, high.dtype)
        # Guards and optimizers change the ends in place; copies keep this graph valid until its backward.
        is_on_cpu = ctx.grid is not None and low.is_cpu and high.is_cpu
        ctx.ends = (low.item(), high.item()) if is_on_cpu else None
        ctx.save_for_backward(x, *(() if is_on_cpu else (low.detach().clone(), high.detach().clone())))
        ctx.is_on_grid = _is_on_grid(x, ctx.grid)
        counts_if_owned()
        if ctx.is_on_grid:
            return x.detach()
        if on_nan is None:
            return fake_quantize(x, params.scale, params.offset, params.num_bits)
        result, has_nan = fake_quantize_and_look(x, params.scale, params.offset, params.num_bits)
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
            return *_gradients(ctx, grads[0], may_overwrite), None, None, None
        with torch.no_grad():
            _, of_low, of_high = _gradients(ctx, grads[0], may_overwrite=False)
        x, params = ctx.saved_tensors[0], ctx.params
        bottom, top = real_ends(params.scale, params.offset, params.num_bits)
        grad_x = torch.where((x < bottom) | (x > top), 0.0, grads[0])
        of_low, of_high = refuse_second(of_low, grads[0], x), refuse_second(of_high, grads[0], x)
        return grad_x, of_low, of_high, None, None, None


_Grid = tuple[float, int, int]
# Results of these nodes are elements of their argument, or 0, which is a point of every grid.
_SELECTIONS = ("ReluBackward0", "MaxPool2DWithIndicesBackward0")


def _grid_of(params: QuantParams) -> _Grid | None:
    """Returns scale, Qmin - offset and Qmax - offset of a grid with one scale on the CPU; None for others."""
    if params.scale.dim() or not params.scale.is_cpu:
        return None
    if "numbers" not in params.kept:
        spec, zero = params.spec, int(params.offset)
        params.kept["numbers"] = params.scale.item(), spec.qmin - zero, spec.qmax - zero
    return params.kept["numbers"]  # type: ignore[no-any-return]


def _is_on_grid(x: Tensor, grid: _Grid | None) -> bool:
    """Whether a learned range with the same grid has made ``x``, behind a ReLU or a max pooling.

    Rounding ``x`` again would return the same bits. Siblings of a residual network share such a grid: the ReLU behind
    an addition and the layers behind the ReLU. A ReLU keeps its result for its backward, which refuses a changed one;
    a pooling does not, so its result must be unchanged.
    """
    node: Any = x.grad_fn
    while type(node).__name__ in _SELECTIONS:
        if type(node).__name__ != _SELECTIONS[0] and version_of(x):
            return False
        node = node.next_functions[0][0]
    return grid is not None and is_node_of(node, LearnedRange) and node.grid == grid


def _gradients(ctx: Any, grad: Tensor, may_overwrite: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x, low and high for the gradient ``grad`` of the result.

    The gradient of x overwrites ``grad`` if it may, because a new tensor costs as much time as all of the arithmetic.
    """
    x, *ends = ctx.saved_tensors  # once: a checkpoint allows a backward to read them once
    x = x if native.is_dense(x) else x.contiguous()
    if grad.stride() != x.stride():
        grad, may_overwrite = torch.empty_like(x).copy_(grad), True
    if ctx.ends is not None and native.handles(x, grad):
        out = grad if may_overwrite else torch.empty_like(x)
        found = _gradients_of_ends(ctx, x, grad, out)
        of_low, of_high = (torch.tensor(one, dtype=dtype) for one, dtype in zip(found, ctx.dtypes, strict=True))
        return out, of_low, of_high
    grad_x, params = grad if may_overwrite else grad.clone(), ctx.params
    pairs = zip(ctx.ends or (), ctx.dtypes, strict=False)
    low, high = ends or (torch.tensor(one, dtype=dtype) for one, dtype in pairs)
    bounds = real_ends(params.scale, params.offset, params.num_bits)
    inside, below, above = _take_inside(x, grad_x, params.scale, *bounds)
    # sum(e * g) of spec 5.2: outside the range e is a constant, the rounding error of the end itself.
    moved = inside + above * _rounding_error(high, params.scale) + below * _rounding_error(low, params.scale)
    moved /= params.spec.levels
    return grad_x, ((below - moved) * ctx.factor).to(low.dtype), ((above + moved) * ctx.factor).to(high.dtype)


def _gradients_of_ends(ctx: Any, x: Tensor, grad: Tensor, out: Tensor) -> tuple[float, float]:
    """Puts ``grad`` into ``out``, 0 where ``x`` is clipped; returns the gradients of both ends, as `_gradients` does.

    In Python's float64 instead of with four dozen operations on tensors of one element.
    """
    low, high = ctx.ends
    step, bottom, top = ctx.grid
    # The products are exact in float64, and rounded to float32 once, as on tensors, when the kernel takes them.
    sums = native.learned_range(x, grad, out, step, bottom * step, top * step)
    inside, below, above = sums.tolist()
    errors = np.array([high, low]) / step
    of_high, of_low = (np.rint(errors) - errors).tolist()
    moved = (inside + above * of_high + below * of_low) / ctx.params.spec.levels
    return (below - moved) * ctx.factor, (above + moved) * ctx.factor


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
