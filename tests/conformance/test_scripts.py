"""Training scripts of other projects run on quantized models; what they deploy is what they have evaluated."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import hotwheels.amct_pytorch as amct
from tests.conformance.scripts import SCRIPTS, TimmEmaV2, TimmEmaV3, UltralyticsEma
from tests.conformance.subject import (
    DYNAMIC,
    FX,
    PTQ,
    QAT,
    Subject,
    batch,
    calibrated,
    fake_quant_file_on,
    float_net,
    labels,
)

PATHS = pytest.mark.parametrize("path", [FX, DYNAMIC])


@PATHS
@pytest.mark.parametrize("name", SCRIPTS)
def test_script_trains_and_its_model_is_saved(name: str, path: str, tmp_path: Path) -> None:
    subject = Subject(path, QAT, tmp_path)
    torch.manual_seed(0)
    model = calibrated(subject) if path == FX else subject.make()  # the dynamic path calibrates in the script
    model = evaluated(SCRIPTS[name](model, tmp_path))
    with torch.no_grad():
        expected = model(batch(0)[:1])
    subject.save(model)
    atol = 0.03 * float(abs(expected).max()) if name == "accelerate_not_unwrapped" else 1e-6
    assert abs(fake_quant_file_on(subject, batch(0)[:1]) - expected).max() <= atol


@PATHS
@pytest.mark.parametrize("name", SCRIPTS)
def test_script_trains_the_float_model_where_nothing_is_quantized(name: str, path: str, tmp_path: Path) -> None:
    """In the state float a quantized model has the outputs and weights of the float model, to the bit."""
    torch.manual_seed(0)
    model = Subject(path, QAT, tmp_path).make()
    amct.enable_quantization(model)
    torch.manual_seed(0)
    model = SCRIPTS[name](model, tmp_path).eval()
    expected = float_run(name)
    for key, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    with torch.no_grad():
        assert torch.equal(model(batch(0)), expected(batch(0)))


@PATHS
@pytest.mark.parametrize("use", [PTQ, QAT])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_resumed_training_is_uninterrupted_training(accumulated: int, use: str, path: str, tmp_path: Path) -> None:
    """In the middle of an epoch, into a new model: parameters, buffers and outputs are equal to the bit."""
    subject = Subject(path, use, tmp_path)
    torch.manual_seed(0)
    whole = calibrated(subject)
    trained(whole, range(6), accumulated, tmp_path / "middle.pt")
    torch.manual_seed(1)
    resumed = subject.restore(tmp_path / "middle.pt")
    trained(resumed, range(3, 6), accumulated, tmp_path / "end.pt")
    assert whole.state_dict().keys() == resumed.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    with torch.no_grad():
        assert torch.equal(evaluated(whole)(batch(0)), evaluated(resumed)(batch(0)))


def trained(model: nn.Module, steps: range, accumulated: int, checkpoint: Path) -> None:
    """Writes ``checkpoint`` before step 3; starts from the one that has been written, if it does not start at 0."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=8)
    if steps.start:
        state = torch.load(checkpoint.with_name("middle_rest.pt"), weights_only=False)
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["rng"])
    for step in steps:
        if step == 3 and not steps.start:
            torch.save(model.state_dict(), checkpoint)
            rest = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
            torch.save(rest | {"rng": torch.get_rng_state()}, checkpoint.with_name("middle_rest.pt"))
        for micro in range(accumulated):
            noisy = batch(step * accumulated + micro) + 0.01 * torch.randn(8, 3, 8, 8)
            F.cross_entropy(model(noisy), labels(step * accumulated + micro)).div(accumulated).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


AVERAGES = {
    "AveragedModel": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9999), use_buffers=True),
    "AveragedModel of equal weights": lambda model: AveragedModel(model, use_buffers=True),
    "timm V2": TimmEmaV2,
    "timm V3": functools.partial(TimmEmaV3, decay=0.9),
    "ultralytics": UltralyticsEma,
}
KINDS = """
common_config:
  activation_quant_params: {quantizer: UlqFakeQuantize, quantizer_args: {batch_num: 2}}
override_layer_configs:
  - layer_name: conv1
    activation_quant_params:
      quantizer: FixedFakeQuantize
      quantizer_args: {scale: 3.1e-4, zero_point: -2047, num_bits: 16}
  - layer_name: conv2
    weight_quant_params: {quantizer: SnqWeightFakeQuantize}
  - layer_name: conv3
    weight_quant_params: {quantizer: LnqFakeQuantize}
  - layer_name: fc
    weight_quant_params: {quantizer: FixedFakeQuantize, quantizer_args: {scale: 7.7e-3}}
    activation_quant_params:
      quantizer: torch.ao.quantization.FakeQuantize
      quantizer_args: {dtype: torch.qint8, quant_min: -128, quant_max: 127}
"""


@pytest.mark.parametrize("name", AVERAGES)
def test_average_of_equal_states_is_the_model(name: str, tmp_path: Path) -> None:
    """Nothing is trained: codebooks, offsets, flags and counters of every kind of quantizer survive the averages."""
    subject = Subject(FX, PTQ, tmp_path)
    (tmp_path / "kinds.yaml").write_text(KINDS)
    amct.create_quant_config_fx(subject.config, float_net().eval(), tmp_path / "kinds.yaml")
    model = amct.create_quant_model_fx(subject.config, float_net().eval())
    amct.enable_quantization(model, calibration=True)
    evaluated(model)
    amct.enable_quantization(model, fake_quant=True)
    average = AVERAGES[name](model)
    for step in range(20):
        updated(average, model, step)
    averaged = getattr(average, "ema", None) or average.module
    with torch.no_grad():
        expected = model(batch(0))
        # Sums of products by 0.9999 and 0.0001 end in other last bits; a step of a grid is larger by far.
        torch.testing.assert_close(averaged(batch(0)), expected, rtol=0, atol=2e-5)
    amct.save_quant_model_fx(averaged, tmp_path / "out" / "net", batch(0)[:1])
    assert abs(fake_quant_file_on(subject, batch(0)[:1]) - expected[:1]).max() <= 2e-5
    fresh = amct.create_quant_model_fx(subject.config, float_net().eval())
    fresh.load_state_dict(averaged.state_dict())
    amct.enable_quantization(fresh, fake_quant=True)
    with torch.no_grad():
        assert torch.equal(fresh(batch(0)), averaged(batch(0)))


@pytest.mark.parametrize("name", AVERAGES)
def test_shift_bits_of_an_average_are_its_own(name: str, tmp_path: Path) -> None:
    """They are searched again after each update; a state with unknown ones never counts as complete."""
    model = calibrated(subject := Subject(DYNAMIC, QAT, tmp_path))
    average = AVERAGES[name](model)
    averaged = getattr(average, "ema", None) or average.module
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        model.train()
        F.cross_entropy(model(batch(step)), labels(step)).backward()
        optimizer.step()
        for _ in range(2):
            updated(average, model, step)
        evaluated(model), evaluated(averaged)
    updated(average, model, 3)
    with pytest.raises(amct.CalibrationError, match="Run at least batch_num forwards"):
        subject.save(averaged)
    torch.save(averaged.state_dict(), tmp_path / "average.pt")
    restored = evaluated(subject.restore(tmp_path / "average.pt"))
    expected = subject.record.read_text()
    subject.save(evaluated(averaged))
    assert subject.record.read_text() == expected and "shift_bit" in expected
    assert torch.equal(restored(batch(0)), averaged(batch(0)))


def updated(average: object, model: nn.Module, step: int) -> None:
    if isinstance(average, AveragedModel):
        average.update_parameters(model)
    elif isinstance(average, TimmEmaV3):
        average.update(model, step + 1)
    else:
        average.update(model)


def evaluated(model: nn.Module) -> nn.Module:
    """Runs the two forwards after which the dynamic path knows its factors."""
    model.eval()
    with torch.no_grad():
        model(batch(0)), model(batch(1))
    return model


@functools.cache
def float_run(name: str) -> nn.Module:
    """Returns the float model that the script has trained."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        return SCRIPTS[name](float_net().train(), Path(folder)).eval()
