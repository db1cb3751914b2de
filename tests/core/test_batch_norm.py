import pytest
import torch

from hotwheels.amct_pytorch.core.batch_norm import channel_factor, fold, inverse_factor, is_lost


@pytest.mark.parametrize("has_bias", [True, False])
def test_folded_layer_equals_convolution_and_batch_norm(has_bias):
    torch.manual_seed(0)
    conv, norm = torch.nn.Conv2d(3, 4, 3, bias=has_bias), torch.nn.BatchNorm2d(4)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.5, -2.0, 0.0, 0.1]))
        norm.bias.normal_()
    conv.double()
    norm.double().eval()
    statistics = norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps
    weight, bias = fold(conv.weight, conv.bias, *statistics)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(torch.nn.functional.conv2d(x, weight, bias), norm(conv(x)))


def test_inverse_factor_is_zero_where_gamma_is():
    var, gamma = torch.tensor([4.0, 1.0]), torch.tensor([2.0, 0.0])
    assert channel_factor(var, gamma, 0.0).tolist() == [1.0, 0.0]
    assert inverse_factor(var, gamma, 0.0).tolist() == [1.0, 0.0]


def test_inverse_factor_has_finite_gradient_at_zero():
    gamma = torch.tensor([0.0, 2.0], requires_grad=True)
    inverse_factor(torch.ones(2), gamma, 0.0).sum().backward()
    assert gamma.grad.tolist() == [0.0, -0.25]


def test_channels_lost_in_rounding_are_those_whose_error_reaches_their_size():
    weight = torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [0.0, 0.0]])
    rounded = torch.tensor([[3.0, 4.5], [0.0, 0.0], [-1.0, 1.0], [0.0, 0.0]])
    assert is_lost(weight, rounded).tolist() == [False, True, True, True]
