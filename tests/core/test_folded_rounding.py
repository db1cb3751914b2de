"""Folding and rounding a weight in one compiled pass gives the same bits as torch's functions one after another."""

from __future__ import annotations

import pytest
import torch

from hotwheels.amct_pytorch.core import native
from hotwheels.amct_pytorch.core.affine import bias_scale_floor, fake_quantize, quantize_bias
from hotwheels.amct_pytorch.core.batch_norm import fold
from hotwheels.amct_pytorch.core.channels import per_channel
from hotwheels.amct_pytorch.core.folded_rounding import LargestWeightGrid, Norm, round_folded
from hotwheels.amct_pytorch.core.search.arq import eps_for_bias, weight_params
from hotwheels.amct_pytorch.core.spec import SMALLEST_SCALE, QuantSpec

pytestmark = pytest.mark.skipif(native._library is None, reason="kernels.c could not be compiled here")

DATA_SCALE = torch.tensor(0.037)
SHAPES = [(1, 1), (3, 5), (64, 3, 7, 7), (96, 1, 3, 3), (48, 200, 1, 1), (130, 40, 3, 3), (10, 5000), (12, 7, 3)]


def torch_result(weight, bias, norm, grid):
    """The rounded weight, the rounded and the folded bias, as LayerWeight computes them without the kernel."""
    if norm is not None:
        gamma = torch.ones_like(norm.var) if norm.gamma is None else norm.gamma
        beta = torch.zeros_like(norm.var) if norm.beta is None else norm.beta
        weight, bias = fold(weight, bias, norm.mean, norm.var, gamma, beta, norm.eps)
    spec = QuantSpec(num_bits=grid.num_bits, symmetric=True, channel_axis=0 if grid.channel_wise else None)
    params = weight_params(weight, spec, eps_for_bias(grid.eps, bias))
    scale = params.scale
    rounded = fake_quantize(weight, per_channel(scale, weight), per_channel(params.offset, weight), grid.num_bits)
    if bias is None:
        return rounded, None, None
    assert bias_scale_floor(bias, DATA_SCALE, scale) is scale
    return rounded, quantize_bias(bias, DATA_SCALE, scale).float() * (DATA_SCALE * scale), bias


def case(shape, seed, *, has_bias=True, has_norm=True, is_affine=True):
    """A weight, a bias and a norm, some of whose factors are negative or 0."""
    generator = torch.Generator().manual_seed(seed)
    channels = shape[0]
    weight = torch.randn(shape, generator=generator)
    weight[0] *= 1e-9  # its scale is the least one
    mean, gamma, beta, bias = torch.randn(4, channels, generator=generator).unbind()
    gamma[:: max(2, channels // 3)] = 0.0
    var = torch.rand(channels, generator=generator)
    affine = (gamma.clone(), beta.clone()) if is_affine else (None, None)
    norm = Norm(mean.clone(), var, *affine, 1e-5) if has_norm else None
    return weight, bias.clone() if has_bias else None, norm


def same_bits(ours, theirs):
    if ours is None or theirs is None:
        return ours is theirs
    return torch.equal(ours.view(torch.int32), theirs.view(torch.int32))


@pytest.mark.parametrize("channel_wise", [True, False])
@pytest.mark.parametrize("num_bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_bits_as_torch(shape, num_bits, channel_wise):
    grid = LargestWeightGrid(num_bits, channel_wise, SMALLEST_SCALE)
    forms = [(b, n, a) for b in (True, False) for n, a in ((True, True), (True, False), (False, False))]
    for seed, (has_bias, has_norm, is_affine) in enumerate(forms):
        given = case(shape, seed, has_bias=has_bias, has_norm=has_norm, is_affine=is_affine)
        made = round_folded(*given, DATA_SCALE.item(), grid)
        assert made is not None
        expected = torch_result(*given, grid)
        assert all(map(same_bits, (made.weight, made.bias, made.float_bias), expected)), (has_bias, has_norm, is_affine)


def test_a_large_bias_raises_the_smallest_scale():
    grid = LargestWeightGrid(8, True, SMALLEST_SCALE)
    weight, bias = torch.full((4, 3), 1e-5), torch.tensor([0.0, 7.0, -1.0, 0.0])
    for one in (bias, bias.clamp(max=6.0)):
        made = round_folded(weight, one, None, DATA_SCALE.item(), grid)
        assert made is not None
        assert same_bits(made.weight, torch_result(weight, one, None, grid)[0])
    assert round_folded(weight, bias, None, DATA_SCALE.item(), grid).weight.unique().numel() == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("channel_wise", [True, False])
def test_numbers_that_are_not_finite_are_left_to_torch(value, channel_wise):
    grid = LargestWeightGrid(8, channel_wise, SMALLEST_SCALE)
    for place in range(3):
        weight, bias, norm = case((6, 300), 3)
        (weight, bias[None], norm.mean[None])[place][0, 5] = value
        assert round_folded(weight, bias, norm, DATA_SCALE.item(), grid) is None
    weight, bias, norm = case((6, 300), 3)
    norm.gamma[4] = value
    assert round_folded(weight, bias, norm, DATA_SCALE.item(), grid) is None


@pytest.mark.parametrize("channel_wise", [True, False])
def test_a_bias_that_needs_a_larger_scale_is_left_to_torch(channel_wise):
    grid = LargestWeightGrid(8, channel_wise, SMALLEST_SCALE)
    weight, bias = torch.full((2, 3), 0.1), torch.tensor([0.0, 1e4])
    assert round_folded(weight, bias, None, DATA_SCALE.item(), grid) is not None
    assert round_folded(weight, bias, None, 1e-7, grid) is None


def test_other_tensors_are_left_to_torch():
    weight, bias, norm = case((6, 4), 0)
    grid = LargestWeightGrid(8, True, SMALLEST_SCALE)
    assert round_folded(weight.double(), bias, norm, 1.0, grid) is None
    assert round_folded(weight.t(), None, None, 1.0, grid) is None
    assert round_folded(weight, bias.double(), norm, 1.0, grid) is None
    assert round_folded(weight, bias[:1], norm, 1.0, grid) is None
    assert round_folded(weight[:0], None, None, 1.0, grid) is None
