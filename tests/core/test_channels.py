import pytest
import torch

from hotwheels.amct_pytorch.core.channels import from_output_first, per_channel, to_output_first


@pytest.mark.parametrize(("channels_in", "channels_out", "groups"), [(4, 6, 1), (4, 6, 2), (6, 6, 6), (4, 12, 4)])
def test_transposed_convolution_channel_is_made_of_its_row(channels_in, channels_out, groups):
    """Only row c of the output-first weight may change channel c of the output."""
    layer = torch.nn.ConvTranspose2d(channels_in, channels_out, 3, groups=groups, bias=False).double()
    x = torch.randn(1, channels_in, 4, 4, dtype=torch.float64)
    rows = to_output_first(layer.weight, groups, is_transposed=True)
    assert rows.shape == (channels_out, channels_in // groups, 3, 3)
    factor = torch.arange(1.0, channels_out + 1).double()
    scaled = from_output_first(rows * per_channel(factor, rows), groups, is_transposed=True)
    assert scaled.shape == layer.weight.shape
    got = torch.nn.functional.conv_transpose2d(x, scaled, groups=groups)
    torch.testing.assert_close(got, layer(x) * per_channel(factor, got[0]))


def test_round_trip_and_gradient():
    weight = torch.randn(4, 3, 2, 5, requires_grad=True)
    back = from_output_first(to_output_first(weight, 2, is_transposed=True), 2, is_transposed=True)
    assert torch.equal(back, weight)
    back.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_other_weights_are_returned_themselves():
    weight = torch.randn(4, 3)
    assert to_output_first(weight) is weight
    assert from_output_first(weight, groups=2) is weight


def test_per_channel_shapes():
    weight = torch.zeros(3, 2, 1, 1)
    assert per_channel(torch.ones(3), weight).shape == (3, 1, 1, 1)
    assert per_channel(torch.tensor(1.0), weight).shape == ()
