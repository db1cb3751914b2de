import numpy as np
import pytest
import torch

from hotwheels.amct_pytorch.core import affine
from hotwheels.amct_pytorch.core.search.arq import LARGE_BIAS_EPS, eps_for_bias, weight_params
from hotwheels.amct_pytorch.core.spec import QuantSpec


@pytest.mark.parametrize("num_bits", [4, 8])
@pytest.mark.parametrize("axis", [0, None])
def test_scale_is_largest_weight_over_qmax(num_bits, axis):
    weight = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    params = weight_params(weight, QuantSpec(num_bits=num_bits, symmetric=True, channel_axis=axis))
    rows = np.abs(weight.numpy()).reshape(5, -1)
    expected = (rows.max(1) if axis == 0 else rows.max()) / (2 ** (num_bits - 1) - 1)
    np.testing.assert_allclose(params.scale.numpy(), expected, rtol=3e-7)
    assert params.scale.shape == params.offset.shape == ((5,) if axis == 0 else ())
    assert params.num_bits == num_bits
    assert not params.offset.any()
    assert torch.equal(affine.canonical_scale(params.scale), params.scale)


@pytest.mark.parametrize("eps", [2.0**-23, 1.19209290e-07, 7.63312164e-06, 0.3])
def test_no_scale_is_below_eps(eps):
    weight = torch.zeros(3, 2)
    weight[1, 0] = 100.0
    scale = weight_params(weight, QuantSpec(channel_axis=0), eps=eps).scale
    assert bool((scale.double() >= np.float32(eps)).all())
    assert scale[0] == pytest.approx(eps, rel=3e-7)
    assert float(scale[1]) == pytest.approx(100 / 127)


def test_legacy_negative_full_scale():
    weight = torch.tensor([[-1.0, 0.5], [1.0, -0.5]])
    scale = weight_params(weight, QuantSpec(channel_axis=0), legacy_negative_full_scale=True).scale
    assert scale.tolist() == pytest.approx([1 / 128, 1 / 127])


@pytest.mark.parametrize(
    ("bias", "expected"),
    [(None, 2.0**-23), ([], 2.0**-23), ([6.4031265, 0.0], 2.0**-23), ([0.0, -6.5], LARGE_BIAS_EPS)],
)
def test_large_bias_raises_eps(bias, expected):
    assert eps_for_bias(2.0**-23, None if bias is None else torch.tensor(bias)) == expected


def test_large_bias_does_not_lower_eps():
    assert eps_for_bias(0.1, torch.tensor([100.0])) == 0.1
