"""Guarantees of all registered quantizers: states, copies, checkpoints, inputs of other types (spec 2.1, 2.2, 4.7)."""

import copy
import pickle

import pytest
import torch

from hotwheels.amct_pytorch.config.layers.quant_config import QuantizerConfig
from hotwheels.amct_pytorch.errors import CalibrationError, ConfigError
from hotwheels.amct_pytorch.quantizers import build_activation, build_weight

ACTIVATIONS = {
    "ulq": QuantizerConfig("UlqFakeQuantize", {"batch_num": 2}),
    "ulq symmetric": QuantizerConfig("UlqFakeQuantize", {"with_offset": False}),
    "ulq fixed_min": QuantizerConfig("UlqFakeQuantize", {"fixed_min": True, "num_bits": 12}),
    "luq": QuantizerConfig("LuqActivationFakeQuantize", {}),
    "luq dynamic": QuantizerConfig("LuqActivationFakeQuantize", {"qscheme": "dynamic"}),
    "luq affine": QuantizerConfig("LuqActivationFakeQuantize", {"qscheme": "affine", "num_bits": 16}),
    "luq ifmr": QuantizerConfig("LuqActivationFakeQuantize", {"observer": "IFMRObserver"}),
    "fixed": QuantizerConfig("FixedFakeQuantize", {"scale": 0.02, "zero_point": -3.0}),
}
WEIGHTS = {
    "arq": QuantizerConfig("ArqWeightFakeQuantize", {}),
    "luq": QuantizerConfig("LuqWeightFakeQuantize", {}),
    "lnq": QuantizerConfig("LnqFakeQuantize", {}),
    "snq": QuantizerConfig("SnqWeightFakeQuantize", {}),
    "fixed": QuantizerConfig("FixedFakeQuantize", {"scale": [0.01, 0.02, 0.03]}),
}


def calibrated(config):
    made = build_activation(config, "conv1")
    torch.manual_seed(0)
    for _ in range(2):
        made.observe(torch.randn(200) + 0.3)
    assert made.is_calibrated
    return made


@pytest.fixture
def weight():
    return torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0))


def shapes(module):
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("config", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_activation_round_trip_is_bit_equal(config):
    source, target = calibrated(config), build_activation(config, "conv1")
    assert shapes(source) == shapes(target)
    if hasattr(source, "clip_max"):
        with torch.no_grad():
            source.clip_max.mul_(0.7)
    target.load_state_dict(source.state_dict())
    x = torch.randn(300)
    with torch.no_grad():
        assert torch.equal(source.fake_quantize(x), target.fake_quantize(x))
    target.observe(x * 100)
    with torch.no_grad():
        assert torch.equal(source.fake_quantize(x), target.fake_quantize(x))
    assert [p.requires_grad for p in source.parameters()] == [p.requires_grad for p in target.parameters()]


@pytest.mark.parametrize("config", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_weight_round_trip_is_bit_equal(config, weight):
    source, target = build_weight(config, "conv1", 3), build_weight(config, "conv1", 3)
    before = shapes(source)
    source.observe(weight)
    assert before == shapes(source)
    target.load_state_dict(source.state_dict())
    assert torch.equal(source.fake_quantize(weight), target.fake_quantize(weight))
    assert torch.equal(source.params(weight).scale, target.params(weight).scale)


@pytest.mark.parametrize("config", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_copies_are_independent_and_equal(config):
    source = calibrated(config)
    x = torch.randn(50)
    for other in (copy.deepcopy(source), pickle.loads(pickle.dumps(source)), source.to("cpu")):
        assert torch.equal(source.fake_quantize(x), other.fake_quantize(x))


@pytest.mark.parametrize("config", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_a_copy_in_the_middle_of_calibration_goes_on(config):
    source = build_activation(config, "conv1")
    source.observe(torch.randn(20))
    other = copy.deepcopy(source)
    for made in (source, other):
        made.observe(torch.arange(20.0))
    assert torch.equal(source.params().scale, other.params().scale)


@pytest.mark.parametrize("config", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
@pytest.mark.parametrize("x", [torch.arange(5), torch.tensor([True]), None, torch.Size([2]), (1.0, 2.0)], ids=str)
def test_what_is_no_floating_tensor_passes_untouched(config, x):
    made = build_activation(config, "conv1")
    made.observe(x)
    assert made.fake_quantize(x) is x
    assert made.is_calibrated == made.is_fixed


@pytest.mark.parametrize("config", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_come_back_in_their_type(config, dtype):
    made = calibrated(config)
    x = torch.linspace(-1, 1, 9).to(dtype)
    out = made.fake_quantize(x)
    assert out.dtype == dtype
    if dtype != torch.float64:
        assert torch.equal(out, made.fake_quantize(x.float()).to(dtype))


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "fixed"])
def test_uncalibrated_quantizer_and_bad_data_name_the_layer(name):
    made = build_activation(ACTIVATIONS[name], "conv1")
    made.layer_name = "conv7"
    for call in (made.params, lambda: made.fake_quantize(torch.zeros(2))):
        with pytest.raises(CalibrationError, match=r"Layer 'conv7'.*not calibrated"):
            call()
    with pytest.raises(CalibrationError, match=r"Layer 'conv7'.*NaN or inf"):
        made.observe(torch.tensor([float("nan")]))
    assert made.scale.tolist() == [1.0] and made.zero_point.tolist() == [0]


@pytest.mark.parametrize("config", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_values_are_grid_points_and_the_gradient_stops_outside(config):
    made = calibrated(config)
    params = made.params()
    x = torch.tensor([0.0, 0.1, 1e6, -1e6, float("inf"), -float("inf")], requires_grad=True)
    out = made.fake_quantize(x)
    low, high = params.spec.qmin - params.offset, params.spec.qmax - params.offset
    expected = torch.clamp(torch.round(x.detach() / params.scale), low, high) * params.scale
    assert torch.equal(out, expected)
    out.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("config", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_forward_obeys_torchs_flags(config):
    made = build_activation(config, "conv1")
    x = torch.randn(30)
    made.disable_fake_quant()
    assert made(x) is x and made(x) is x
    made.enable_fake_quant()
    made.disable_observer()
    assert torch.equal(made(x), made.fake_quantize(x))
    scale, zero_point = made.calculate_qparams()
    assert torch.equal(scale, made.scale) and torch.equal(zero_point, made.zero_point)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "fixed"])
def test_forced_symmetry_is_restored_with_the_checkpoint(name):
    made = build_activation(ACTIVATIONS[name], "conv1")
    made.make_symmetric()
    for _ in range(2):
        made.observe(torch.rand(100))
    restored = build_activation(ACTIVATIONS[name], "conv1")
    restored.load_state_dict(made.state_dict())
    restored.make_symmetric()
    assert restored.is_symmetric and restored.params().offset == 0
    assert torch.equal(restored.params().scale, made.params().scale)


@pytest.mark.parametrize("name", ["ulq", "luq affine", "fixed"])
def test_a_given_or_loaded_asymmetric_grid_refuses_symmetry(name):
    made = calibrated(ACTIVATIONS[name])
    if name != "fixed":
        restored = build_activation(ACTIVATIONS[name], "conv1")
        restored.load_state_dict(made.state_dict())
        made = restored
    with pytest.raises(ConfigError, match="Layer 'conv1' needs a symmetric activation grid"):
        made.make_symmetric()


def test_a_shared_quantizer_may_be_used_twice_before_the_backward():
    made = calibrated(ACTIVATIONS["ulq"])
    x = torch.randn(40, requires_grad=True)
    (made.fake_quantize(x) + made.fake_quantize(2 * x)).sum().backward()
    assert made.clip_max.grad is not None


def test_gradients_reach_the_optimizer_that_was_built_before_calibration():
    made = build_activation(QuantizerConfig("UlqFakeQuantize", {}), "conv1")
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    made.observe(torch.randn(100))
    before = made.clip_max.item()
    made.fake_quantize(torch.full((10,), 50.0, requires_grad=True)).sum().backward()
    optimizer.step()
    assert made.clip_max.item() == pytest.approx(before - 0.1 * 10, rel=0.01)
