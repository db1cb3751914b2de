"""Quantizer and observer classes of torch and of users, by dotted path (spec 6.6)."""

import pytest
import torch
from torch import nn

from hotwheels.amct_pytorch.config.layers.quant_config import QuantizerConfig
from hotwheels.amct_pytorch.core.affine import canonical_scale, fake_quantize
from hotwheels.amct_pytorch.errors import ConfigError
from hotwheels.amct_pytorch.quantizers import build_activation, build_weight
from hotwheels.amct_pytorch.quantizers.foreign.dotted_path import import_observer, resolve_arguments

SIGNED = {"quant_min": -128, "quant_max": 127, "dtype": "torch.qint8", "reduce_range": False}


def activation(observer="torch.quantization.MinMaxObserver", **args):
    args = {**SIGNED, "observer": observer, "qscheme": "torch.per_tensor_affine", **args}
    return build_activation(QuantizerConfig("torch.quantization.FakeQuantize", args), "conv1")


def weight_quantizer(observer="torch.quantization.PerChannelMinMaxObserver", allows_channel_wise=True, **args):
    args = {**SIGNED, "observer": observer, "qscheme": "torch.per_channel_symmetric", "ch_axis": 0, **args}
    config = QuantizerConfig("torch.quantization.FakeQuantize", args)
    return build_weight(config, "conv1", 6, allows_channel_wise)


@pytest.mark.parametrize("name", ["MinMaxObserver", "MovingAverageMinMaxObserver", "HistogramObserver"])
@pytest.mark.parametrize("qscheme", ["torch.per_tensor_affine", "torch.per_tensor_symmetric"])
def test_torch_fake_quantize_as_activation(name, qscheme):
    torch.manual_seed(0)
    x = torch.randn(64) + 0.5
    made = activation(f"torch.quantization.{name}", qscheme=qscheme)
    assert not made.is_calibrated
    made.observe(x)
    made.observe(x * 2)
    params = made.params()
    scale, zero_point = made.module.activation_post_process.calculate_qparams()
    assert params.scale.item() == canonical_scale(scale).item() and params.offset.item() == zero_point.item()
    assert params.num_bits == 8
    leaf = (x * 3).requires_grad_()
    out = made.fake_quantize(leaf)
    assert torch.equal(out, fake_quantize(leaf.detach(), params.scale, params.offset, 8))
    out.sum().backward()
    assert 0 < leaf.grad.sum() <= 64
    # Quantizing is not observing.
    assert torch.equal(made.params().scale, params.scale)


@pytest.mark.parametrize(
    ("observer", "scheme"),
    [
        ("PerChannelMinMaxObserver", {"qscheme": "torch.per_channel_symmetric", "ch_axis": 0}),
        ("MinMaxObserver", {"qscheme": "torch.per_tensor_symmetric"}),
    ],
)
def test_torch_fake_quantize_as_weight(observer, scheme):
    weight = torch.randn(6, 4, 3, 3, requires_grad=True)
    args = {**SIGNED, **scheme, "observer": f"torch.quantization.{observer}"}
    made = build_weight(QuantizerConfig("torch.quantization.FakeQuantize", args), "conv1", 6, "ch_axis" in scheme)
    made.observe(weight)
    params = made.params(weight)
    size = weight.detach().abs()
    largest = size.flatten(1).amax(1) if made.channel_wise else size.max()
    torch.testing.assert_close(params.scale, largest / 127.5, rtol=1e-5, atol=0)  # torch divides by half the levels
    out = made.fake_quantize(weight, params)
    out.sum().backward()
    assert weight.grad is not None and (out - weight).abs().max() <= params.scale.max()


@pytest.mark.parametrize("kind", ["activation", "weight"])
def test_state_dict_restores_the_grid_without_calibration(kind):
    made = activation if kind == "activation" else weight_quantizer
    x = torch.randn(6, 5)
    source, target = made(), made()
    source.observe(x)
    target.load_state_dict(source.state_dict())
    assert target.is_calibrated
    assert torch.equal(source.fake_quantize(x), target.fake_quantize(x))
    target.observe(x * 100)
    assert torch.equal(source.fake_quantize(x), target.fake_quantize(x))


def test_unsigned_is_refused():
    with pytest.raises(ConfigError, match=r"Layer 'conv1'.*quantizes to torch.quint8; only signed types"):
        activation(quant_min=0, quant_max=255, dtype="torch.quint8")
    with pytest.raises(ConfigError, match=r"Layer 'conv1'.*\[0, 255\]; unsigned integers are not supported"):
        build_activation(QuantizerConfig(f"{__name__}.Unsigned", {}), "conv1")


def test_per_channel_is_for_weights_only():
    with pytest.raises(ConfigError, match=r"Layer 'conv1'.*per channel"):
        activation("torch.quantization.PerChannelMinMaxObserver", qscheme="torch.per_channel_symmetric")
    with pytest.raises(ConfigError, match="Layer 'conv1' has no channels"):
        weight_quantizer(allows_channel_wise=False)
    with pytest.raises(ConfigError, match="ch_axis"):
        weight_quantizer(ch_axis=1)


def test_weights_must_be_symmetric():
    made = weight_quantizer(qscheme="torch.per_channel_affine")
    with pytest.raises(ConfigError, match=r"Layer 'conv1'.*weights must be symmetric"):
        made.observe(torch.rand(6, 5))


class Simple(nn.Module):
    """No switches, no calculate_qparams."""

    def __init__(self, scale=0.25, bits=8):
        super().__init__()
        self.scale, self.zero_point = scale, 0
        self.quant_min, self.quant_max = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def forward(self, x):
        return torch.fake_quantize_per_tensor_affine(x, self.scale, 0, self.quant_min, self.quant_max)


class Unsigned(Simple):
    def __init__(self):
        super().__init__()
        self.quant_min, self.quant_max = 0, 255


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5]))
        self.zero_point = torch.tensor([0.0])

    def forward(self, x):
        return torch.clamp(x / self.scale, -128, 127) * self.scale * 2


class Nothing(nn.Module):
    pass


@pytest.mark.parametrize(("bits", "expected"), [(4, 4), (8, 8), (12, 12), (16, 16), (6, 8)])
def test_width_comes_from_quant_min_and_quant_max(bits, expected):
    made = build_activation(QuantizerConfig(f"{__name__}.Simple", {"bits": bits}), "conv1")
    made.observe(torch.randn(3))
    assert made.params().num_bits == expected and made.params().scale == 0.25


def test_learned_scale_is_read_anew_and_keeps_its_own_gradient():
    made = build_activation(QuantizerConfig(f"{__name__}.Learned", {}), "conv1")
    made.observe(torch.randn(3))
    x = torch.tensor([0.6], requires_grad=True)
    out = made.fake_quantize(x)
    assert out.item() == 0.5
    out.backward()
    assert x.grad.item() == 2.0
    with torch.no_grad():
        made.module.scale.fill_(0.125)
    assert made.params().scale == 0.125


def test_a_class_that_is_no_quantizer_is_named():
    with pytest.raises(ConfigError, match="no attribute scale and zero_point"):
        build_activation(QuantizerConfig(f"{__name__}.Nothing", {}), "conv1")
    with pytest.raises(ConfigError, match=r"Layer 'conv1': 'nowhere.Class' must be the full path"):
        build_activation(QuantizerConfig("nowhere.Class", {}), "conv1")
    with pytest.raises(ConfigError, match="cannot be built"):
        activation(unknown_argument=3)


def test_dotted_strings_resolve_where_they_can():
    args = {"dtype": "torch.qint8", "text": "no.such.thing", "number": "0.5", "plain": "symmetric", "n": 3}
    assert resolve_arguments(args, "torch.quantization.FakeQuantize", "conv1") == {**args, "dtype": torch.qint8}
    assert import_observer("torch.quantization.MinMaxObserver", "") is torch.ao.quantization.MinMaxObserver


def test_make_symmetric_refuses_a_class_with_an_offset():
    made = activation()
    made.observe(torch.rand(10))
    with pytest.raises(ConfigError, match="needs offset 0"):
        made.make_symmetric()
    symmetric = activation(qscheme="torch.per_tensor_symmetric")
    symmetric.observe(torch.rand(10))
    symmetric.make_symmetric()
    assert symmetric.is_symmetric


@pytest.mark.parametrize("quantizer", ["UlqFakeQuantize", "LuqActivationFakeQuantize"])
@pytest.mark.parametrize("bits", [8, 12])
def test_torch_observer_inside_our_quantizers(quantizer, bits):
    args = {"observer": "torch.quantization.MinMaxObserver", "num_bits": bits, "qscheme": "symmetric"}
    if quantizer == "UlqFakeQuantize":
        args["qscheme"] = "torch.per_tensor_symmetric"
    made = build_activation(QuantizerConfig(quantizer, args), "conv1")
    made.observe(torch.linspace(-1, 2, 50))
    made.observe(torch.linspace(-1, 3, 50))
    assert made.params().offset == 0
    # torch divides by half the number of levels.
    assert made.params().scale.item() == pytest.approx(3 / ((2**bits - 1) / 2), rel=1e-5)
    made.fake_quantize(torch.randn(4, requires_grad=True)).sum().backward()
