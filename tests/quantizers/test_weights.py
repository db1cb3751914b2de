"""Weight quantizers: ARQ, SNQ, LNQ and Fixed against references written out (spec 6)."""

import numpy as np
import pytest
import torch

from hotwheels.amct_pytorch.errors import CalibrationError, ConfigError
from hotwheels.amct_pytorch.quantizers import (
    ArqObserver,
    ArqWeightFakeQuantize,
    LnqFakeQuantize,
    SnqObserver,
    SnqWeightFakeQuantize,
)
from hotwheels.amct_pytorch.quantizers.fixed import FixedWeightFakeQuantize


def canonical(scale):
    scale = np.asarray(scale, dtype=np.float32)
    return np.float32(1) / (np.float32(1) / scale)


def random_weight(seed=0):
    return torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("channel_wise", [True, False])
def test_arq_grid_and_values(bits, channel_wise):
    weight = random_weight()
    made = ArqWeightFakeQuantize(num_bits=bits, channel_wise=channel_wise)
    params = made.params(weight)
    largest = weight.abs().flatten(1).amax(1).numpy() if channel_wise else weight.abs().max().numpy()
    qmax = 2 ** (bits - 1) - 1
    expected = canonical(largest.astype(np.float32) / np.float32(qmax))
    np.testing.assert_array_equal(params.scale, expected)
    scale = expected.reshape(-1, 1, 1, 1) if channel_wise else expected
    steps = np.clip(np.round(weight.numpy() / scale), -qmax - 1, qmax)
    np.testing.assert_array_equal(made.fake_quantize(weight, params), steps * scale)


def test_arq_follows_the_weight_and_passes_every_gradient():
    weight = random_weight().requires_grad_()
    made = ArqWeightFakeQuantize()
    first = made.params(weight).scale
    upstream = torch.randn(weight.shape)
    made.fake_quantize(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)
    torch.testing.assert_close(made.params(weight * 2).scale, first * 2, rtol=1e-6, atol=0)


def test_arq_constant_zero_channel_gets_the_smallest_scale():
    weight = random_weight()
    weight[2] = 0
    made = ArqWeightFakeQuantize()
    assert made.params(weight).scale[2].item() >= 2.0**-23
    assert made.params(weight).scale[2].item() < 2.0**-22
    assert torch.equal(made.fake_quantize(weight)[2], weight[2])
    large = torch.tensor([0.0, 6.5, 0, 0, 0, 0])
    assert made.params(weight, large).scale[2].item() == pytest.approx(7.63312164e-06, rel=1e-6)


def test_arq_width_the_hardware_lacks_becomes_eight_with_a_warning(capfd):
    made = ArqWeightFakeQuantize(num_bits=6, object_layer="conv1")
    assert made.num_bits == 8 and made.params(random_weight()).num_bits == 8
    assert "conv1" in capfd.readouterr().err


def test_arq_ties_go_to_the_even_integer():
    weight = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]])
    made = ArqWeightFakeQuantize()
    assert made.fake_quantize(weight).tolist() == [[127.0, 0.0, 2.0, 2.0, 0.0, -2.0]]


def test_legacy_scale_divides_the_larger_negative_side_by_128():
    made = ArqWeightFakeQuantize(channel_wise=False, legacy_negative_full_scale=True)
    assert made.params(torch.tensor([[-128.0, 1.0]])).scale.item() == 1.0


@pytest.mark.parametrize("observer", [ArqObserver, SnqObserver])
def test_observers_answer_like_torchs(observer):
    with pytest.raises(CalibrationError, match="has not seen a weight"):
        observer().calculate_qparams()
    made = observer(channel_wise=True)
    weight = random_weight()
    assert made(weight) is weight
    scale, zero_point = made.calculate_qparams()
    assert scale.shape == zero_point.shape == (6,) and not zero_point.any()


def nearest(weight, values):
    values = np.sort(values.astype(np.float64))
    return values[np.abs(weight.astype(np.float64)[..., None] - values).argmin(-1)]


@pytest.mark.parametrize("channel_wise", [True, False])
@pytest.mark.parametrize("init_algo", ["uniform", "gaussian", "d2sampling"])
def test_snq_takes_the_nearest_of_sixteen_values(channel_wise, init_algo):
    weight = random_weight()
    made = SnqWeightFakeQuantize(channel_wise=channel_wise, channels=6, init_algo=init_algo)
    made.observe(weight)
    params = made.params(weight)
    assert params.codebook is not None and params.codebook.shape == (16,)
    assert params.codebook.abs().max() == 127 and bool((params.codebook[1:] >= params.codebook[:-1]).all())
    assert params.scale.shape == ((6,) if channel_wise else ())
    scales = params.scale.expand(6)
    for channel, found in enumerate(made.fake_quantize(weight, params)):
        expected = nearest(weight[channel].numpy(), params.codebook.numpy() * scales[channel].item())
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_snq_clusters_once():
    made = SnqWeightFakeQuantize(channels=6)
    with pytest.raises(CalibrationError, match="SnqWeightFakeQuantize is not calibrated"):
        made.params(random_weight())
    made.observe(random_weight())
    first = made.codebook.clone()
    made.observe(random_weight(1) ** 3)
    assert torch.equal(made.codebook, first)


def test_lnq_values_and_gradients():
    weight = random_weight().requires_grad_()
    made = LnqFakeQuantize(clip_max=1.5)
    made.observe(weight)
    params = made.params(weight)
    values = weight.detach().numpy().astype(np.float64)
    bound = values.std() * 1.5
    out = made.fake_quantize(weight, params)
    np.testing.assert_allclose(
        out.detach(), nearest(values, params.codebook.numpy() * params.scale.item()), rtol=1e-6, atol=1e-7
    )
    upstream = torch.randn(weight.shape)
    out.backward(upstream)
    g = upstream.numpy()
    np.testing.assert_array_equal(weight.grad, np.where(np.abs(values) <= bound, g, 0))
    clipped = values.std() * (g[values > bound].sum() - g[values < -bound].sum())
    assert made.clip_max.grad.item() == pytest.approx(clipped, rel=1e-4, abs=1e-5)
    assert params.clip_max == 1.5


def test_lnq_clusters_again_after_cluster_freq_optimizer_steps():
    made = LnqFakeQuantize(cluster_freq=3)
    made.observe(random_weight())
    first, other = made.centroids.clone(), random_weight(1) ** 3
    for _ in range(2):
        for _ in range(4):  # micro-batches whose gradients are accumulated
            made.fake_quantize(other)
        other = other + 1e-6
    assert torch.equal(made.centroids, first) and int(made.training_forwards) == 2
    made.eval()
    made.fake_quantize(other)
    made.train()
    with torch.no_grad():
        made.fake_quantize(other)
    assert torch.equal(made.centroids, first)
    made.fake_quantize(other)
    assert not torch.equal(made.centroids, first)


def test_lnq_symmetric_codebook_is_mirrored():
    made = LnqFakeQuantize(symmetric=True)
    made.observe(random_weight())
    codebook = made.params(random_weight()).codebook
    assert torch.equal(codebook, -codebook.flip(0))


def test_lnq_bound_never_becomes_negative():
    made = LnqFakeQuantize()
    made.observe(random_weight())
    expected = made.params(random_weight()).scale
    with torch.no_grad():
        made.clip_max.fill_(-1.0)
    assert torch.equal(made.params(random_weight()).scale, expected)
    made.fake_quantize(random_weight().requires_grad_())
    assert made.clip_max.item() == 3.0


def test_lnq_channel_wise_has_no_effect(capfd):
    made = LnqFakeQuantize(channel_wise=True, object_layer="conv1")
    made.observe(random_weight())
    assert made.params(random_weight()).scale.dim() == 0
    assert "Layer 'conv1', LnqFakeQuantize: channel_wise is True; allowed: False." in capfd.readouterr().err


@pytest.mark.parametrize("value", [0.0, 1.5])
@pytest.mark.parametrize("made", [LnqFakeQuantize, SnqWeightFakeQuantize])
def test_constant_weight_stays_finite(made, value):
    weight = torch.full((2, 3), value)
    quantizer = made(channels=2)
    quantizer.observe(weight)
    assert torch.isfinite(quantizer.fake_quantize(weight)).all()


def test_fixed_scales_per_channel_and_their_length():
    made = FixedWeightFakeQuantize(scale=[0.5, 0.25], channels=2)
    weight = torch.tensor([[0.75, 100.0], [0.6, -100.0]], requires_grad=True)
    out = made.fake_quantize(weight)
    assert out.tolist() == [[1.0, 63.5], [0.5, -32.0]]  # 0.75 / 0.5 = 1.5 is a tie: 2
    out.sum().backward()
    assert weight.grad.tolist() == [[1.0, 0.0], [1.0, 0.0]]
    with pytest.raises(ConfigError, match=r"Layer 'conv1' has 3 output channels.*2 values"):
        FixedWeightFakeQuantize(scale=[0.5, 0.25], channels=3, object_layer="conv1")
    with pytest.raises(ConfigError, match="has no channels"):
        FixedWeightFakeQuantize(scale=[0.5, 0.25], channels=2, allows_channel_wise=False)


@pytest.mark.parametrize(
    ("made", "args"),
    [
        (ArqWeightFakeQuantize, {"eps": 0.0}),
        (LnqFakeQuantize, {"cluster_freq": 0}),
        (LnqFakeQuantize, {"max_iteration": 499}),
        (LnqFakeQuantize, {"min_distance": 1e-9}),
        (LnqFakeQuantize, {"clip_max": 0.0}),
        (SnqWeightFakeQuantize, {"max_iteration": 2001}),
        (SnqWeightFakeQuantize, {"cali_min_distance": 1e-2}),
        (SnqWeightFakeQuantize, {"init_algo": "random"}),
        (FixedWeightFakeQuantize, {"scale": 0.0}),
    ],
)
def test_argument_outside_its_range_is_named(made, args):
    with pytest.raises(ConfigError, match=next(iter(args))):
        made(**args)


def test_weight_with_nan_names_the_layer():
    weight = random_weight()
    weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(CalibrationError, match=r"Layer 'conv1'.*NaN or inf"):
        LnqFakeQuantize(object_layer="conv1").observe(weight)
