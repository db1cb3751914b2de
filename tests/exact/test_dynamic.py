"""real_quant == oracle on every integer of whole nets from the dynamic path, shift bits included (spec 9, 10.3)."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.errors import CalibrationError, ConfigError
from tests.support.dynamic_nets import Branches, Decides, Reuses, SmallResNet
from tests.support.dynamic_path import Files, make_config, quantize, run
from tests.support.exact_dynamic import CONFIGURATIONS, assert_exact, calibrated_net, images, layers_of, oracle
from tests.support.exact_dynamic_nets import DYNAMIC_NETS
from tests.support.exact_pair import run_torch

# All in `make test-exact`; in CI each net in one configuration, and the one without any graph in all.
_IS_COMPLETE = int(os.environ.get("AMCT_EXACT_CASES", "0")) >= 2000


def _cases() -> list[tuple[str, str]]:
    names = list(CONFIGURATIONS)
    one_each = {name: [names[at % len(names)]] for at, name in enumerate(DYNAMIC_NETS)} | {"free": names}
    return [(name, one) for name in DYNAMIC_NETS for one in (names if _IS_COMPLETE else one_each[name])]


@pytest.mark.parametrize(("name", "configuration"), _cases())
def test_every_integer_of_a_net_is_equal(name: str, configuration: str, tmp_path: Path) -> None:
    quantized, files = calibrated_net(DYNAMIC_NETS[name](), configuration, tmp_path, [images(), images()])
    x = images(spread=3.0)  # larger than what the shifts were found on: here and there int16 overflows
    found, result = assert_exact(quantized, files, x)
    shifts = {name: one.shift_bit for name, one in files.record.layers.items() if any(one.shift_bit)}
    clipped = sum(_clipped(result.sums[name], bits) for name, bits in shifts.items())
    print(
        f"{name}, {configuration}: {found.edges} edges, {found.sums} accumulators, {found.elements} integers equal;"
        f" {len(shifts)} layers with a shift, {clipped} of their sums clipped"
    )
    assert _changes_something(quantized, x)


def _clipped(sums: np.ndarray, shift_bit: Sequence[int]) -> int:
    """How many accumulators are at one of the ends of ``int16 * 2^N``."""
    power = 2 ** np.asarray(shift_bit).reshape(-1, 1, 1) if len(shift_bit) > 1 else 2 ** shift_bit[0]
    return int(((sums == 32767 * power) | (sums == -32768 * power)).sum())


def _changes_something(quantized: nn.Module, x: Tensor) -> bool:
    """Whether the accumulators are others without the shifts."""
    unshifted = copy.deepcopy(quantized)
    for layer in layers_of(unshifted).values():
        if layer.shift_bit is not None:
            layer.shift_bit.zero_()
    with_shift, without = run_torch(quantized, [x]).sums, run_torch(unshifted, [x]).sums
    return any(not torch.equal(with_shift[name].double(), without[name].double()) for name in with_shift)


@pytest.mark.parametrize("model", [SmallResNet, Decides, Reuses, Branches])
def test_every_integer_of_a_small_model_is_equal(model: type[nn.Module], tmp_path: Path) -> None:
    batch = torch.randn(4, 3, 8, 8)
    quantized, files = calibrated_net(model(), "16 bits", tmp_path, [batch])
    assert_exact(quantized, files, 3 * torch.randn(4, 3, 8, 8))


class Computed(nn.Module):
    """Operands that are computed from parameters: some the exporter folds, in float32, some it leaves to the file."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.gain, self.shift = nn.Parameter(torch.randn(8, 1, 1)), nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x) * ((self.gain * 0.1 + self.shift) / 1.3))
        x = x * torch.exp(self.gain * 0.3) + F.normalize(self.shift, dim=0)
        return self.third(x + torch.sqrt(self.gain.abs() + 0.1)) * 0.5


def test_constants_are_those_of_the_file(tmp_path: Path) -> None:
    quantized, files = calibrated_net(Computed(), "16 bits", tmp_path, [torch.randn(4, 3, 32, 32)])
    found, _ = assert_exact(quantized, files, torch.randn(4, 3, 32, 32))
    assert found.elements > 50_000  # one element in 10,000 shows a constant that is rounded on one side only


# --- the switch ---


@pytest.fixture
def calibrated(tmp_path: Path) -> tuple[nn.Module, nn.Module, Files]:
    model = SmallResNet()
    quantized, files = calibrated_net(model, "8 bits", tmp_path, [X])
    return model, quantized, files


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def test_states_may_be_chosen_and_given_back(calibrated: tuple[nn.Module, nn.Module, Files]) -> None:
    model, quantized, files = calibrated
    fake = run(quantized, X)
    record = files.record
    amct.enable_quantization(nn.Sequential(quantized))
    assert torch.equal(run(quantized, X), run(model, X))
    amct.enable_quantization(quantized, real_quant=True)
    real = run(quantized, X)
    assert real.dtype == torch.float32
    outputs = oracle(files, X).outputs
    np.testing.assert_array_equal(real.numpy(), next(iter(outputs.values())))
    assert torch.equal(run(copy.deepcopy(quantized), X), real)
    amct.enable_quantization(quantized, fake_quant=True)
    assert torch.equal(run(quantized, X), fake)
    amct.enable_quantization(quantized, calibration=True)  # the session is done with it
    assert torch.equal(run(quantized, X), fake)
    assert files.record == record


@pytest.mark.parametrize("state", [{"fake_quant": True}, {"real_quant": True}])
def test_forwards_in_a_chosen_state_do_not_calibrate(state: dict[str, bool], tmp_path: Path) -> None:
    model = SmallResNet()
    quantized = quantize(model, make_config(model, tmp_path, X), X)
    amct.enable_quantization(quantized, **state)
    with pytest.raises(CalibrationError, match="Layer 'conv1' is not calibrated"):
        run(quantized, X)
    amct.enable_quantization(quantized, calibration=True)
    assert torch.equal(run(quantized, X), run(model, X))
    assert not torch.equal(run(quantized, X), run(model, X))


def test_state_carries_the_shift_bits(calibrated: tuple[nn.Module, nn.Module, Files], tmp_path: Path) -> None:
    _, quantized, files = calibrated
    shifts = {name: one.shift_bit for name, one in files.record.layers.items() if one.shift_bit}
    assert {name: tuple(layers_of(quantized)[name].shift_bit.tolist()) for name in shifts} == shifts
    fresh = quantize(SmallResNet(), make_config(SmallResNet(), tmp_path, X), X)
    fresh.load_state_dict(quantized.state_dict())
    for one in (quantized, fresh):
        amct.enable_quantization(one, real_quant=True)
    assert torch.equal(run(fresh, X), run(quantized, X))


def test_shift_that_is_not_known_is_named(calibrated: tuple[nn.Module, nn.Module, Files]) -> None:
    _, quantized, _ = calibrated
    layers_of(quantized)["fc"].shift_bit.fill_(-1)
    amct.enable_quantization(quantized, real_quant=True)
    with pytest.raises(CalibrationError, match="Layer 'fc': its shift bit is not known yet"):
        run(quantized, X)


def test_gradients_are_those_of_fake_quant(calibrated: tuple[nn.Module, nn.Module, Files]) -> None:
    _, quantized, _ = calibrated
    found = {}
    for state in ("fake_quant", "real_quant"):
        amct.enable_quantization(quantized, **{state: True})
        x = X.clone().requires_grad_()
        result = quantized(x)
        result.sum().backward()
        found[state] = (x.grad, result.detach())
    assert torch.equal(found["fake_quant"][0], found["real_quant"][0])
    assert torch.equal(found["real_quant"][1], run(quantized, X))


def test_model_without_anything_quantized_is_refused() -> None:
    with pytest.raises(ConfigError, match="contains no quantized model"):
        amct.enable_quantization(SmallResNet(), real_quant=True)


def test_updated_batch_norms_and_trained_weights_are_those_of_the_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SmallResNet()
    with torch.no_grad():
        model.bn1.weight[:2].neg_()  # their channels are assigned anew
    files = make_config(model, tmp_path, X)
    files.change(update_bn=True)
    files.change_layers("conv1", "layer1.0.conv2", weight_quant_params=dict(CONFIGURATIONS["SNQ"][1]))
    quantized = quantize(model, files, X)
    amct.update_bn_status(quantized, True)
    for step in range(5):
        run(quantized, 2 * X + step)
    amct.update_bn_status(quantized, False)
    run(quantized, X)
    files.save(quantized)
    assert (tmp_path / "record_update.txt").exists()
    amct.enable_quantization(quantized, real_quant=True)
    assert_exact(quantized, files, X)


@pytest.mark.parametrize("weights", ["arq_retrain {}", "lnq_retrain { cluster_freq: 3 }"])
def test_trained_model_is_that_of_the_files(weights: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, files, definition = SmallResNet().train(), Files(tmp_path), tmp_path / "retrain.cfg"
    definition.write_text(f"retrain_weight_quant_config: {{ {weights} }}")
    amct.create_quant_retrain_config(files.config, model, X, definition)
    trained = amct.create_quant_retrain_model(files.config, model, files.record_file, X)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05)
    for _ in range(5):
        F.cross_entropy(trained(X), torch.arange(len(X)) % 5).backward()
        optimizer.step()
    amct.enable_quantization(trained.eval(), real_quant=True)
    with pytest.raises(CalibrationError, match=r"conv1.*shift bit is not known yet"):
        run(trained, X)
    amct.enable_quantization(trained, calibration=True)  # back to what training does by itself
    run(trained, X)
    amct.save_quant_retrain_model(files.config, trained, files.record_file, str(tmp_path / "out" / "model"), X)
    amct.enable_quantization(trained, real_quant=True)
    assert_exact(trained, files, 3 * X)
