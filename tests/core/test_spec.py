import pytest
import torch

from hotwheels.amct_pytorch.core.params import QuantParams
from hotwheels.amct_pytorch.core.spec import QuantSpec
from hotwheels.amct_pytorch.errors import ConfigError


@pytest.mark.parametrize("num_bits", range(2, 17))
def test_ends_of_every_width(num_bits):
    spec = QuantSpec(num_bits=num_bits)
    assert (spec.qmin, spec.qmax, spec.levels) == (-(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1, 2**num_bits - 1)


@pytest.mark.parametrize("num_bits", [1, 17, 0, -8])
def test_impossible_widths_cannot_be_built(num_bits):
    with pytest.raises(ConfigError, match=f"got {num_bits}"):
        QuantSpec(num_bits=num_bits)


def test_params_know_their_axis():
    scalar = QuantParams(scale=torch.tensor(1.0), offset=torch.tensor(0))
    vector = QuantParams(scale=torch.ones(3), offset=torch.zeros(3), num_bits=4, codebook=torch.arange(16))
    assert (scalar.spec.channel_axis, vector.spec.channel_axis) == (None, 0)
