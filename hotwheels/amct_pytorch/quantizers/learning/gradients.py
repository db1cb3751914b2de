"""Fake quantization with gradients: autograd functions around ``core.affine.fake_quantize`` (spec 4.1, 5.2, 6.1, 6.4).

torch's native fake_quantize kernels multiply by the reciprocal of the scale, so some ties go to another integer than in
ONNX QuantizeLinear. The kernels of this package divide, so forward values are those of the exported model bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...core import native
from ...core.affine import fake_quantize, real_ends
from ...core.channels import per_channel
from ...core.params import QuantParams
from ...core.spec import QuantSpec
from ...torch_private import was_made_by
from .learned_range import is_new_result
from .second_gradient import refuse_second


def straight_through(x: Tensor, params: QuantParams) -> Tensor:
    """Returns the grid points of ``x``; the gradient passes where the grid does not clip, ends included."""
    return _StraightThrough.apply(x, *_along_channels(x, params), params.num_bits)  # type: ignore[no-any-return, no-untyped-call]


def identity_gradient(x: Tensor, params: QuantParams) -> Tensor:
    """Returns the grid points of ``x``; the gradient passes everywhere: for a grid that spans all of ``x`` (ARQ)."""
    return _IdentityGradient.apply(x, *_along_channels(x, params), params.num_bits)  # type: ignore[no-any-return, no-untyped-call]


def identity_gradient_unfolded(weight: Tensor, factor: Tensor, inverse: Tensor, params: QuantParams) -> Tensor:
    """Returns ``Q(weight * factor) * inverse`` with ``inverse = 1 / factor`` [C_out], where Q is straight-through.

    The result is the weight in front of a BatchNorm in training (spec 6.7), in a few passes instead of a dozen. The
    gradient of ``weight`` [C_out, ...] passes unchanged, the gradient of ``factor`` is
    ``sum(g * (weight - result)) * inverse``. Both are 0 where ``inverse`` is 0.
    """
    return _Unfolded.apply(weight, factor, inverse.detach(), params.scale, params.num_bits)  # type: ignore[no-any-return, no-untyped-call]


def replace_value(value: Tensor, source: Tensor) -> Tensor:
    """Returns a copy of ``value``, whose gradient goes to ``source`` unchanged; both have the same shape."""
    return _ReplaceValue.apply(value, source)  # type: ignore[no-any-return, no-untyped-call]


def quantized_again(value: Tensor) -> Callable[[], Tensor] | None:
    """Returns a function that computes ``value`` again; None if it came from none of the functions of this package.

    Known are the results of a learned range, of `straight_through` and of `identity_gradient_unfolded`. The function
    reads the tensors saved for the backward of the quantizer, so it must be called before that backward has run. None
    also if ``value`` shares the memory that its quantizer keeps.
    """
    made_by: Any = value.grad_fn
    if was_made_by(value, _Unfolded):
        return functools.partial(_unfold_again, made_by)
    if was_made_by(value, _StraightThrough):
        return functools.partial(_round_again, made_by)
    return functools.partial(_round_source_again, made_by) if is_new_result(value) else None


def _unfold_again(made_by: Any) -> Tensor:
    weight, factor, inverse, scale = (x.detach() for x in made_by.saved_tensors)
    return _unfolded(weight, factor, inverse, scale, made_by.num_bits)


def _round_again(made_by: Any) -> Tensor:
    x, scale, offset = made_by.saved_tensors
    return fake_quantize(x.detach(), scale, offset, made_by.num_bits)


def _round_source_again(made_by: Any) -> Tensor:
    params: QuantParams = made_by.params
    return fake_quantize(made_by.saved_tensors[0].detach(), params.scale, params.offset, params.num_bits)


def clipped_weight(weight: Tensor, value: Tensor, clip_max: Tensor, sigma: Tensor) -> Tensor:
    """Returns ``value``, the non-uniform grid points of ``weight``, with the gradients of LNQ (spec 6.4).

    The gradient of ``weight`` passes where ``|weight| <= clip_max * sigma``; that of ``clip_max`` is ``+-sigma * g``
    summed over the clipped weights. ``sigma``, the standard deviation of the weight, counts as constant.
    """
    return _ClippedWeight.apply(weight, clip_max, value, sigma)  # type: ignore[no-any-return, no-untyped-call]


class _IdentityGradient(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor, scale: Tensor, offset: Tensor, num_bits: int) -> Tensor:
        return fake_quantize(x, scale, offset, num_bits)

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0], None, None, None


class _Unfolded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, factor: Tensor, inverse: Tensor, scale: Tensor, num_bits: int) -> Tensor:
        ctx.save_for_backward(weight, factor, inverse, scale)
        ctx.num_bits = num_bits
        return _unfolded(weight, factor, inverse, scale, num_bits)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, factor, inverse, scale = ctx.saved_tensors
        grad, used = grads[0], inverse != 0
        grad_factor = None
        if ctx.needs_input_grad[1]:
            with torch.no_grad():
                grad_factor = _row_dots(grad.contiguous(), weight, factor, inverse, scale, ctx.num_bits) * inverse
            grad_factor = refuse_second(grad_factor, grad, weight, factor)
        grad_weight = grad if bool(used.all()) else grad * per_channel(used, grad)
        return grad_weight, grad_factor, None, None, None


class _ReplaceValue(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, value: Tensor, _source: Tensor) -> Tensor:
        return value.clone()  # not a view: in-place operations on the result stay legal

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
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
        bottom, top = real_ends(scale, offset, ctx.num_bits)
        return grads[0] * ((x >= bottom) & (x <= top)), None, None, None


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


def _along_channels(x: Tensor, params: QuantParams) -> tuple[Tensor, Tensor]:
    """Scale and offset, shaped to broadcast along axis 0 of ``x``."""
    return per_channel(params.scale, x), per_channel(params.offset, x)


def _unfolded(weight: Tensor, factor: Tensor, inverse: Tensor, scale: Tensor, num_bits: int) -> Tensor:
    end = QuantSpec(num_bits=num_bits).qmax
    if native.handles(weight) and weight.is_contiguous():
        return native.unfold(weight, factor, inverse, scale, end)
    step = per_channel(scale, weight)
    steps = torch.round(weight * per_channel(factor, weight) / step).clamp_(-1 - end, end)
    return steps.mul_(step).mul_(per_channel(inverse, weight))


def _row_dots(grad: Tensor, weight: Tensor, factor: Tensor, inverse: Tensor, scale: Tensor, num_bits: int) -> Tensor:
    """Returns the dot product of each row of ``grad`` with the row of ``weight - _unfolded(weight, ...)``, [C_out]."""
    if native.handles(grad, weight) and weight.is_contiguous():
        return native.unfold_backward(grad, weight, factor, inverse, scale, QuantSpec(num_bits=num_bits).qmax)
    error = weight - _unfolded(weight, factor, inverse, scale, num_bits)
    dots: Tensor = torch.linalg.vecdot(grad.flatten(1), error.flatten(1))
    return dots
