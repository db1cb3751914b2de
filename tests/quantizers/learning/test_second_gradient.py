"""Gradients of gradients through quantizers: right, or refused in the second backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.core.params import QuantParams
from hotwheels.amct_pytorch.quantizers.learning.gradients import identity_gradient_unfolded
from hotwheels.amct_pytorch.quantizers.learning.learned_range import learned_range

GRID = QuantParams(scale=torch.tensor(0.1), offset=torch.tensor(0.0), num_bits=4)  # -0.8 to 0.7


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, requires_grad=True)


def test_of_the_input_of_a_learned_range_it_is_right() -> None:
    """The penalty of a GAN: the square of the gradient with respect to the input, which is 0 where x is clipped."""
    x, weight = leaf(-2.0, -0.3, 0.2, 5.0), leaf(1.0, 2.0, 3.0, 4.0)
    ends = torch.tensor(-0.8, requires_grad=True), torch.tensor(0.7, requires_grad=True)
    result = learned_range(x, *ends, GRID)
    (first,) = torch.autograd.grad((result * weight).square().sum() / 2, x, create_graph=True)
    first.square().sum().backward()
    is_inside = torch.tensor([0.0, 1.0, 1.0, 0.0])
    rounded, constant = result.detach(), weight.detach()
    assert torch.equal(first, rounded * constant**2 * is_inside)
    # first = q * w^2 inside, dq/dx = 1 there: d(first^2)/dx = 2 * first * w^2, d(first^2)/dw = 2 * first * 2 * q * w.
    assert torch.equal(x.grad, 2 * first.detach() * constant**2)
    assert torch.equal(weight.grad, 2 * first.detach() * 2 * rounded * constant)


def test_of_the_ends_of_a_learned_range_it_is_refused() -> None:
    x = leaf(-2.0, -0.3, 0.2, 5.0)
    ends = torch.tensor(-0.8, requires_grad=True), torch.tensor(0.7, requires_grad=True)
    (once,) = torch.autograd.grad(learned_range(x, *ends, GRID).square().sum(), ends[1])
    (first,) = torch.autograd.grad(learned_range(x, *ends, GRID).square().sum(), ends[1], create_graph=True)
    assert torch.equal(first, once)
    with pytest.raises(amct.UnsupportedModelError, match="cannot be differentiated again"):
        first.backward()


def test_of_a_folded_batch_norm_it_is_refused() -> None:
    weight, factor = torch.linspace(-1, 1, 8).reshape(2, 4).requires_grad_(), leaf(0.5, 2.0)
    scale = torch.tensor([0.1, 0.1])
    params = QuantParams(scale=scale, offset=torch.zeros(2), num_bits=8)
    result = identity_gradient_unfolded(weight, factor, 1 / factor, params)
    of_weight, of_factor = torch.autograd.grad(result.square().sum(), (weight, factor), create_graph=True)
    of_weight.sum().backward(retain_graph=True)
    assert torch.equal(weight.grad, torch.full_like(weight, 2.0))
    with pytest.raises(amct.UnsupportedModelError, match="cannot be differentiated again"):
        of_factor.sum().backward()


def test_a_layer_behind_a_quantizer_keeps_its_graph() -> None:
    """The convolution keeps a function instead of the rounded input; the second gradient reaches the input."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    quantizer = amct.UlqFakeQuantize(clip_max=3.0, clip_min=-3.0)
    conv, head = nn.Conv2d(3, 2, 3), nn.Conv2d(2, 1, 2)
    rounded = quantizer(x)
    penalty = torch.autograd.grad(head(conv(rounded)).square().sum(), conv.weight, create_graph=True)[0].square().sum()
    penalty.backward()
    plain = rounded.detach().requires_grad_()  # the gradient of rounding is 1 inside the range, and 0 outside
    of_plain = torch.autograd.grad(head(conv(plain)).square().sum(), conv.weight, create_graph=True)[0].square().sum()
    (expected,) = torch.autograd.grad(of_plain, plain)
    torch.testing.assert_close(x.grad, expected * (x.detach().abs() <= 3.0))
