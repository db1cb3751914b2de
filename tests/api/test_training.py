"""Training of quantized models: guarantees about values, states and resuming (spec 2.1 - 2.3, 5, 6.7)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from tests.support.fx_path import CONFIG, make_config, quantize, run_fake, run_float, run_onnx, run_real
from tests.support.nets import Residual, shake_batch_norms

LNQ = {"quantizer": "LnqFakeQuantize", "quantizer_args": {"cluster_freq": 3}}
LUQ = {"quantizer": "LuqActivationFakeQuantize", "quantizer_args": {"qscheme": "dynamic"}}
LUQ_WEIGHT = {"quantizer": "LuqWeightFakeQuantize", "quantizer_args": {}}
SYMMETRIC = {"quantizer": "UlqFakeQuantize", "quantizer_args": {"with_offset": False}}
# Every algorithm that learns something, beside the defaults (ULQ and ARQ).
ALGORITHMS: Mapping[str, Mapping[str, Any]] = {
    "conv2": {"activation_quant_params": [LUQ], "weight_quant_params": LNQ},
    "fc1": {"activation_quant_params": [SYMMETRIC], "weight_quant_params": LUQ_WEIGHT},
}
OPTIMIZERS: Mapping[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=5e-3),
}


class LeNet(nn.Module):
    """Two convolutions, one with a BatchNorm; dropout; two Linears."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 6, 5, bias=False), nn.BatchNorm2d(6, eps=1e-4, momentum=0.2)
        self.conv2 = nn.Conv2d(6, 8, 5)
        self.drop = nn.Dropout(0.1)
        self.fc1, self.fc2 = nn.Linear(8 * 4 * 4, 24), nn.Linear(24, 10)
        shake_batch_norms(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(self.drop(F.relu(self.fc1(torch.flatten(x, 1)))))


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def digits(count: int = 32, seed: int = 7) -> tuple[Tensor, Tensor]:
    """Ten noisy patterns and their numbers."""
    patterns = torch.rand(10, 1, 28, 28, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    return patterns[labels] + 0.1 * torch.randn(count, 1, 28, 28, generator=generator), labels


def pre_calibrated(folder: Path, layers: Mapping[str, Mapping[str, Any]] = ALGORITHMS) -> QuantGraphModule:
    """A LeNet ready to be trained: fake_quant, training mode."""
    torch.manual_seed(0)
    model = LeNet()
    quantized = amct.create_quant_model_fx(make_config(model, folder, layers), model)
    amct.enable_quantization(quantized, calibration=True, fake_quant=True)
    with torch.no_grad():
        quantized(digits()[0])
    amct.enable_quantization(quantized, fake_quant=True)
    return quantized.train()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    """Makes the steps with these numbers, each on its own batch and its own dropout, and returns the losses."""
    losses = []
    for step in steps:
        images, labels = digits(seed=step)
        torch.manual_seed(step)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("layers", [{}, ALGORITHMS], ids=["defaults", "luq and lnq"])
def test_the_whole_path_from_float_model_to_files(tmp_path, optimizer, layers):
    model = pre_calibrated(tmp_path, layers)
    losses = train(model, OPTIMIZERS[optimizer](model), range(80))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])

    images, labels = digits(seed=1000)
    fake, real = run_fake(model.eval(), images), run_real(model, images)
    for output in (fake, real):
        assert (output.argmax(1) == labels).float().mean() > 0.8
    amct.save_quant_model_fx(model, tmp_path / "out", images[:1])
    exported = torch.from_numpy(run_onnx(tmp_path / "out_fake_quant_model.onnx", images[:1])[0])
    torch.testing.assert_close(exported, fake[:1], rtol=0, atol=1e-4)
    for layer in model.quantized_layers.values():
        assert all(quantizer.params().scale > 0 for quantizer in layer.activation)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("state_dict_name", [None, "quant_model_weights"])
def test_restored_training_goes_on_to_the_bit(tmp_path, optimizer, state_dict_name):
    model = pre_calibrated(tmp_path)
    trainer = OPTIMIZERS[optimizer](model)
    train(model, trainer, range(5))  # LNQ's clusters are found anew at the third and will be at the sixth
    state = {"optimizer": trainer.state_dict(), "step": torch.tensor(5)}
    torch.save(model.state_dict() if state_dict_name is None else {state_dict_name: model.state_dict()}, tmp_path / "m")
    torch.save(state, tmp_path / "o")
    uninterrupted = train(model, trainer, range(5, 11))

    torch.manual_seed(99)
    restored = amct.restore_quant_model_fx(tmp_path / CONFIG, LeNet(), tmp_path / "m", state_dict_name)
    amct.enable_quantization(restored, fake_quant=True)
    restored.train()
    trainer = OPTIMIZERS[optimizer](restored)
    state = torch.load(tmp_path / "o", weights_only=True)
    trainer.load_state_dict(state["optimizer"])
    assert train(restored, trainer, range(int(state["step"]), 11)) == uninterrupted
    for name, value in model.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name]), name


def test_a_restored_fresh_model_is_the_saved_one_in_every_state(tmp_path):
    model = pre_calibrated(tmp_path)
    train(model, OPTIMIZERS["sgd"](model), range(4))
    torch.save(model.eval().state_dict(), tmp_path / "m")
    restored = amct.restore_quant_model_fx(tmp_path / CONFIG, LeNet(), tmp_path / "m").eval()
    images, _ = digits()
    for run in (run_float, run_fake, run_real):
        assert torch.equal(run(model, images), run(restored, images))


def test_before_the_first_step_the_trained_model_is_the_calibrated_one(tmp_path):
    torch.manual_seed(0)
    images, _ = digits()
    model = quantize(LeNet().eval(), tmp_path, [(images,)], ALGORITHMS)
    calibrated = run_fake(model, images)
    amct.enable_quantization(model, fake_quant=True)
    with_gradients = model(images)  # learned ranges and replaced biases take other paths then
    assert with_gradients.requires_grad and torch.equal(with_gradients, calibrated)
    amct.enable_quantization(model, real_quant=True)
    assert torch.equal(model(images), run_real(model, images))


def test_training_forwards_move_no_value_but_statistics(tmp_path):
    model = pre_calibrated(tmp_path)
    before = copy.deepcopy(model.state_dict())
    model(digits()[0])
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {
        "bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked",
        "amct_layers.conv2.weight.training_forwards",
    }  # fmt: skip


def test_modes_leave_batch_norm_and_dropout_as_they_are(tmp_path):
    model = pre_calibrated(tmp_path)
    for _ in range(2):
        for mode in (False, True):
            model.train(mode)
            amct.enable_quantization(model, fake_quant=mode)
            amct.freeze_batch_norm(model, not mode)
            model(digits()[0])
    norm = model.get_submodule("bn1")
    assert (norm.eps, norm.momentum, norm.affine, norm.track_running_stats) == (1e-4, 0.2, True, True)
    assert model.get_submodule("drop").p == 0.1


def test_frozen_batch_norms_keep_their_statistics_through_train(tmp_path):
    model = pre_calibrated(tmp_path)
    wrapper = nn.Sequential(model)
    amct.freeze_batch_norm(wrapper)
    before = copy.deepcopy(model.get_buffer("bn1.running_mean"))
    wrapper.eval()
    wrapper.train()
    wrapper(digits()[0]).sum().backward()
    assert model.training and model.get_submodule("drop").training and not model.get_submodule("bn1").training
    assert torch.equal(model.get_buffer("bn1.running_mean"), before)
    assert model.get_parameter("bn1.weight").grad is not None
    assert not copy.deepcopy(model).train().get_submodule("bn1").training

    amct.freeze_batch_norm(wrapper, False)
    assert model.get_submodule("bn1").training
    wrapper(digits()[0])
    assert not torch.equal(model.get_buffer("bn1.running_mean"), before)


def test_frozen_training_computes_what_evaluation_computes(tmp_path):
    model = pre_calibrated(tmp_path)
    amct.freeze_batch_norm(model)
    model.train()
    model.get_submodule("drop").eval()
    images, _ = digits()
    assert torch.equal(model(images), run_fake(model.eval(), images))


def test_freezing_needs_a_quantized_model_and_a_bool(tmp_path):
    with pytest.raises(amct.ConfigError, match="freeze_batch_norm: Linear contains no quantized model"):
        amct.freeze_batch_norm(nn.Linear(1, 1))
    with pytest.raises(TypeError, match="freeze"):
        amct.freeze_batch_norm(pre_calibrated(tmp_path), 1)


@pytest.mark.parametrize("images", [torch.zeros(8, 1, 28, 28), torch.ones(8, 1, 28, 28)], ids=["zeros", "constant"])
@pytest.mark.parametrize("layers", [{}, ALGORITHMS], ids=["defaults", "luq and lnq"])
def test_zeros_and_constants_can_be_calibrated_and_trained_on(tmp_path, images, layers):
    model = LeNet()
    with torch.no_grad():
        model.conv2.weight.zero_()
    model = quantize(model, tmp_path, [(images,)], layers)
    amct.enable_quantization(model, fake_quant=True)
    optimizer = OPTIMIZERS["sgd"](model.train())
    for _ in range(3):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        optimizer.step()
    for layer in model.quantized_layers.values():
        assert all(bool(quantizer.params().scale > 0) for quantizer in layer.activation)


def test_nan_data_names_layer_and_quantizer(tmp_path):
    model = pre_calibrated(tmp_path)
    images, _ = digits()
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(amct.CalibrationError, match=r"Layer 'conv1'.*UlqFakeQuantize holds NaN"):
        model(images)


@pytest.mark.parametrize(
    ("parameter", "layer", "quantizer"),
    [
        ("conv1.weight", "conv1", "ArqWeightFakeQuantize"),
        ("bn1.weight", "conv1", "ArqWeightFakeQuantize"),
        ("amct_layers.conv1.activation.0.clip_max", "conv1", "UlqFakeQuantize"),
        ("amct_layers.conv2.activation.0.max_value", "conv2", "LuqActivationFakeQuantize"),
        ("amct_layers.conv2.weight.clip_max", "conv2", "LnqFakeQuantize"),
        ("amct_layers.fc1.weight.max_value", "fc1", "LuqWeightFakeQuantize"),
    ],
)
def test_a_nan_step_names_layer_and_quantizer(tmp_path, parameter, layer, quantizer):
    model = pre_calibrated(tmp_path)
    with torch.no_grad():
        model.get_parameter(parameter).fill_(float("nan"))
    with pytest.raises(amct.CalibrationError, match=f"Layer '{layer}'.*{quantizer} is NaN"):
        model(digits()[0])


@pytest.mark.parametrize(
    "weights",
    [
        {"quantizer": "SnqWeightFakeQuantize"},
        {"quantizer": "FixedFakeQuantize", "quantizer_args": {"scale": 0.01}},
        {"quantizer": "LuqWeightFakeQuantize", "quantizer_args": {"observer": "LuqMseObserver"}},
    ],
    ids=lambda entry: entry["quantizer"],
)
def test_nan_weights_are_named_where_the_scale_does_not_show_them(tmp_path, weights):
    images, _ = digits()
    model = quantize(
        LeNet(), tmp_path, [(images,)], {"fc2": {"weight_quant_params": {"quantizer_args": {}, **weights}}}
    )
    amct.enable_quantization(model, fake_quant=True)
    model.train()(images)
    with torch.no_grad():
        model.get_parameter("fc2.weight")[0, 0] = float("nan")
    with pytest.raises(
        amct.CalibrationError, match=f"Layer 'fc2': the weight of its quantizer .*{weights['quantizer'][:5]}.*lower"
    ):
        model(images)


def test_data_parallel_is_refused_with_the_way_out(tmp_path):
    model = pre_calibrated(tmp_path)
    message = "cannot run in DataParallel.*Use DistributedDataParallel"
    with pytest.raises(amct.UnsupportedModelError, match=message):
        amct.enable_quantization(nn.Sequential(nn.DataParallel(model)), fake_quant=True)
    with pytest.raises(amct.UnsupportedModelError, match=message):
        # What a forward of DataParallel begins with where there are several devices.
        [module._replicate_for_data_parallel() for module in model.modules()]


def test_pre_calibration_quantizes_what_is_calibrated_and_observes_the_rest(tmp_path):
    model = Residual().eval()
    quantized = amct.create_quant_model_fx(make_config(model, tmp_path), model)
    amct.enable_quantization(quantized, calibration=True, fake_quant=True)
    images = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        first = quantized(images)
        assert torch.equal(first, quantized(images))
    assert not torch.equal(first, run_float(quantized, images))
    assert torch.equal(first, run_fake(quantized, images))


@pytest.mark.parametrize(
    "weight",
    [LNQ, {"quantizer": "ArqWeightFakeQuantize", "quantizer_args": {"num_bits": 4, "channel_wise": False}}],
    ids=["lnq", "arq"],
)
def test_channel_below_the_resolution_of_the_weight_keeps_its_statistics(weight, tmp_path):
    """On one grid for all channels a small gamma lets the variance grow without end (core.batch_norm.is_lost)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1e-4, 0.0]))
    config = make_config(model, tmp_path, {"_0": {"weight_quant_params": weight}})
    quantized = amct.create_quant_model_fx(config, model)
    amct.enable_quantization(quantized, calibration=True, fake_quant=True)
    x = torch.randn(16, 3, 8, 8)
    quantized(x)
    amct.enable_quantization(quantized, fake_quant=True)
    quantized.train()
    before = quantized.get_buffer("1.running_var").clone()
    for _ in range(30):
        quantized(x).sum().backward()
    growth = quantized.get_buffer("1.running_var") / before
    assert growth[6:].tolist() == [1.0, 1.0]
    assert (growth[:6] != 1).all() and (growth < 2).all()
