"""Fake quantization with gradients: autograd functions around ``core.affine.fake_quantize`` (SPEC 4.1, 5.2, 6.1, 6.4).

torch's native fake_quantize kernels multiply by the reciprocal of the scale, which moves ties to another integer than
ONNX QuantizeLinear; ours divide, so the forward values are those of the exported model bit for bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..core.affine import fake_quantize
from ..core.channels import per_channel
from ..core.params import QuantParams
from ..core.spec import QuantSpec

# Elements of x worked on at once in a backward: its dozen passes then stay in a core's cache.
_BLOCK = 1 << 18
_hardtanh_backward = torch.ops.aten.hardtanh_backward
_threshold_backward = torch.ops.aten.threshold_backward


def straight_through(x: Tensor, params: QuantParams) -> Tensor:
    """Returns the grid points of ``x``; the gradient passes where the grid does not clip, ends included."""
    return _StraightThrough.apply(x, *_along_channels(x, params), params.num_bits)  # type: ignore[no-any-return, no-untyped-call]


def learned_range(x: Tensor, low: Tensor, high: Tensor, params: QuantParams, factor: float = 1.0) -> Tensor:
    """Returns the grid points of ``x``, with gradients for ``x`` and for both ends of the range (SPEC 5.2).

    ``low``, ``high``: scalars of the range which ``params`` was computed from. ``factor`` multiplies their gradients.
    """
    return _LearnedRange.apply(  # type: ignore[no-any-return, no-untyped-call]
        x, low, high, params.scale, params.offset, params.num_bits, factor
    )


def identity_gradient(x: Tensor, params: QuantParams) -> Tensor:
    """Returns the grid points of ``x``; the gradient passes everywhere: for a grid that spans all of ``x`` (ARQ)."""
    return _IdentityGradient.apply(x, *_along_channels(x, params), params.num_bits)  # type: ignore[no-any-return, no-untyped-call]


def identity_gradient_unfolded(weight: Tensor, factor: Tensor, inverse: Tensor, params: QuantParams) -> Tensor:
    """Returns ``Q(weight * factor) * inverse`` with ``inverse = 1 / factor`` [C_out], where Q is straight-through.

    That is the weight in front of a BatchNorm in training (SPEC 6.7), in a few passes instead of a dozen. The gradient
    of ``weight`` [C_out, ...] passes unchanged, that of ``factor`` is ``sum(g * (weight - result)) * inverse``. Both
    are 0 where ``inverse`` is 0.
    """
    return _Unfolded.apply(weight, factor, inverse.detach(), params.scale, params.num_bits)  # type: ignore[no-any-return, no-untyped-call]


def replace_value(value: Tensor, source: Tensor) -> Tensor:
    """Returns a copy of ``value``, whose gradient goes to ``source`` unchanged; both have the same shape."""
    return _ReplaceValue.apply(value, source)  # type: ignore[no-any-return, no-untyped-call]


def quantized_again(value: Tensor) -> Callable[[], Tensor] | None:
    """Returns a function that makes ``value`` once more, if a learned range or a fixed grid made it; else None.

    It keeps the tensor in front of the quantizer alive, not ``value``.
    """
    made_by = value.grad_fn
    if not isinstance(made_by, (_LearnedRange._backward_cls, _StraightThrough._backward_cls)):  # type: ignore[attr-defined]
        return None
    x, *_, scale, offset = made_by.saved_tensors
    return functools.partial(fake_quantize, x.detach(), scale, offset, made_by.num_bits)


def clipped_weight(weight: Tensor, value: Tensor, clip_max: Tensor, sigma: Tensor) -> Tensor:
    """Returns ``value``, the non-uniform grid points of ``weight``, with the gradients of LNQ (SPEC 6.4).

    The gradient of ``weight`` passes where ``|weight| <= clip_max * sigma``; that of ``clip_max`` is ``+-sigma * g``
    summed over the clipped weights. ``sigma``, the standard deviation of the weight, counts as constant.
    """
    return _ClippedWeight.apply(weight, clip_max, value, sigma)  # type: ignore[no-any-return, no-untyped-call]


class _IdentityGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, offset: Tensor, num_bits: int) -> Tensor:
        return fake_quantize(x, scale, offset, num_bits)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0], None, None, None


class _Unfolded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, factor: Tensor, inverse: Tensor, scale: Tensor, num_bits: int) -> Tensor:
        ends, step = QuantSpec(num_bits=num_bits), per_channel(scale, weight)
        out = torch.empty_like(weight)
        blocks = _row_blocks(weight, out, per_channel(factor, weight), per_channel(inverse, weight), step)
        for rows, result, times, back, unit in blocks:
            torch.mul(rows, times, out=result)
            result.div_(unit).round_().clamp_(ends.qmin, ends.qmax).mul_(unit).mul_(back)
        ctx.save_for_backward(weight, out, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, out, inverse = ctx.saved_tensors
        grad, used = grads[0], inverse != 0
        grad_factor = (_row_dots(grad, weight) - _row_dots(grad, out)) * inverse if ctx.needs_input_grad[1] else None
        grad_weight = grad if bool(used.all()) else grad * per_channel(used, grad)
        return grad_weight, grad_factor, None, None, None


class _ReplaceValue(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, source: Tensor) -> Tensor:
        return value.clone()  # not a view: in-place operations on the result stay legal

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, offset: Tensor, num_bits: int) -> Tensor:
        ctx.save_for_backward(x, scale, offset)
        ctx.num_bits = num_bits
        return fake_quantize(x, scale, offset, num_bits)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        x, scale, offset = ctx.saved_tensors
        bottom, top = _ends(scale, offset, ctx.num_bits)
        return grads[0] * ((x >= bottom) & (x <= top)), None, None, None


class _LearnedRange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, low: Tensor, high: Tensor, scale: Tensor, offset: Tensor, num_bits: int, factor: float
    ) -> Tensor:
        # The ends are trained in place by guards and optimizers; clones keep this graph valid until its backward.
        ctx.save_for_backward(x, low.detach().clone(), high.detach().clone(), scale, offset)
        ctx.num_bits, ctx.factor = num_bits, factor
        return fake_quantize(x, scale, offset, num_bits)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, low, high, scale, offset = ctx.saved_tensors
        grad_x, inside, above, below = _range_gradients(x, grads[0], scale, offset, ctx.num_bits)
        levels = QuantSpec(num_bits=ctx.num_bits).levels
        # sum(e * g) of SPEC 5.2: outside the range e is a constant, the rounding error of the end itself.
        moved = inside + above * _rounding_error(high / scale) + below * _rounding_error(low / scale)
        moved = moved / levels
        grad_low, grad_high = (below - moved) * ctx.factor, (above + moved) * ctx.factor
        return grad_x, grad_low.to(low.dtype), grad_high.to(high.dtype), None, None, None, None


class _ClippedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, clip_max: Tensor, value: Tensor, sigma: Tensor) -> Tensor:
        ctx.save_for_backward(weight, (clip_max * sigma).detach(), sigma)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weight, bound, sigma = ctx.saved_tensors
        grad_weight = grads[0] * (weight.abs() <= bound)
        clipped = grads[0] - grad_weight
        return grad_weight, (clipped * weight.sign()).sum() * sigma, None, None


def _range_gradients(
    x: Tensor, grad: Tensor, scale: Tensor, offset: Tensor, num_bits: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns g inside the range, and the sums of (rhe(v) - v) * g inside, of g above and of g below the range.

    Works on numbers of the host, block by block, with the passes that torch has vectorized; masks are slow. Most blocks
    hold nothing outside the range, so that is looked at first.
    """
    x, grad = _same_layout(x, grad)
    grad_x = torch.empty_like(x)
    bottom, top = _ends(scale, offset, num_bits)
    step = scale.to(x.dtype).item()
    # hardtanh_backward drops its bounds themselves; here they are the last values that pass.
    outer = [torch.nextafter(end.to(x.dtype), end.to(x.dtype) * 0 + way).item() for end, way in _outwards(bottom, top)]
    bottom, top = bottom.item(), top.item()
    sums = torch.zeros(3, dtype=torch.float64)
    buffers = torch.empty(2, min(_block_size(x), x.numel()), dtype=x.dtype, device=x.device)
    for piece, upstream, passed in zip(_blocks(x), _blocks(grad), _blocks(grad_x), strict=True):
        _hardtanh_backward(upstream, piece, *outer, grad_input=passed)
        low, high = (end.item() for end in torch.aminmax(piece))
        steps, error = buffers[:, : piece.numel()]
        torch.div(piece, step, out=steps)
        if low < bottom or high > top:
            steps.clamp_(bottom / step, top / step)  # infinities have no rounding error, and count as clipped
        if high > top:
            sums[1] += _threshold_backward(upstream, piece, top, grad_input=error).sum().item()
        if low < bottom:
            negative = torch.neg(piece)
            sums[2] += _threshold_backward(upstream, negative, -bottom, grad_input=error).sum().item()
        torch.round(steps, out=error).sub_(steps)
        sums[0] += torch.dot(passed, error).item()
    sums = sums.to(x.device)
    return grad_x, sums[0], sums[1], sums[2]


def _along_channels(x: Tensor, params: QuantParams) -> tuple[Tensor, Tensor]:
    """Scale and offset, shaped to broadcast along axis 0 of ``x``."""
    return per_channel(params.scale, x), per_channel(params.offset, x)


def _row_blocks(weight: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Pieces of whole rows, along axis 0, of tensors that broadcast against ``weight``; scalars go along."""
    rows = max(1, _block_size(weight) * weight.shape[0] // max(1, weight.numel()))
    for start in range(0, weight.shape[0], rows):
        piece = slice(start, start + rows)
        yield tuple(one[piece] if one.dim() else one for one in (weight, *others))


def _row_dots(left: Tensor, right: Tensor) -> Tensor:
    """The dot product of each pair of rows, [C_out]."""
    return torch.cat([(a * b).flatten(1).sum(1) for a, b in _row_blocks(left, right)])


def _ends(scale: Tensor, offset: Tensor, num_bits: int) -> tuple[Tensor, Tensor]:
    """The real values of Qmin and Qmax: what lies beyond is clipped."""
    spec = QuantSpec(num_bits=num_bits)
    return (spec.qmin - offset) * scale, (spec.qmax - offset) * scale


def _outwards(bottom: Tensor, top: Tensor) -> tuple[tuple[Tensor, float], tuple[Tensor, float]]:
    return (bottom, -math.inf), (top, math.inf)


def _rounding_error(steps: Tensor) -> Tensor:
    return torch.round(steps) - steps


def _same_layout(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Both dense and in the same memory order, so that flat views of them match element by element."""
    if not x.is_contiguous() and not (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        x = x.contiguous()
    if grad.stride() != x.stride():
        grad = torch.empty_like(x).copy_(grad)
    return x, grad


def _blocks(x: Tensor) -> Iterator[Tensor]:
    """Flat pieces of a dense tensor in memory order; one piece on an accelerator."""
    flat = torch.as_strided(x, (x.numel(),), (1,), x.storage_offset())
    return iter(torch.split(flat, _block_size(x)))


def _block_size(x: Tensor) -> int:
    return _BLOCK if x.device.type == "cpu" else max(1, x.numel())
