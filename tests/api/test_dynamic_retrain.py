"""Training on the dynamic path (spec 3, 9.3, 9.8): from configuration to files, restoring, refused input."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.layers.layer_container import LAYERS, layers_by_name
from hotwheels.amct_pytorch.core.search.shift_bit import best_shift, shift_errors
from hotwheels.amct_pytorch.errors import AmctError, CalibrationError, ConfigError, UnsupportedModelError
from hotwheels.amct_pytorch.nn.quantized_layer import QuantizedLayer
from hotwheels.amct_pytorch.oracle.interpreter import Interpreter
from hotwheels.amct_pytorch.record.text_proto import read_record
from tests.support import fx_path
from tests.support.dynamic_nets import Decides, SmallResNet
from tests.support.dynamic_path import Files, run, same_tensors
from tests.support.log_lines import LogLines

BATCH_AXES = {"input": {0: "batch"}, "output": [0]}
NAMES = {"input_names": ["input"], "output_names": ["output"], "dynamic_axes": BATCH_AXES}
ULQ_LNQ = """
batch_num: 2
retrain_data_quant_config: { ulq_quantize: { } }
retrain_weight_quant_config: { lnq_quantize: { cluster_freq: 3 } }
"""
CONFIGURATIONS = {"defaults": None, "ulq and lnq": ULQ_LNQ}


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def batch(step: int, count: int = 6) -> tuple[Tensor, Tensor]:
    """Five noisy patterns and their numbers."""
    patterns = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(5, (count,), generator=generator)
    return patterns[labels] + 0.2 * torch.randn(count, 3, 8, 8, generator=generator), labels


def configured(model: nn.Module, folder: Path, cfg: str | None = None) -> Files:
    files = Files(folder)
    definition = None
    if cfg is not None:
        definition = folder / "retrain.cfg"
        definition.write_text(cfg)
    amct.create_quant_retrain_config(files.config, model, batch(0)[0], definition)
    return files


def retrain_model(folder: Path, cfg: str | None = None, model: nn.Module | None = None) -> tuple[nn.Module, Files]:
    torch.manual_seed(0)
    model = SmallResNet().train() if model is None else model
    files = configured(model, folder, cfg)
    return amct.create_quant_retrain_model(files.config, model, files.record_file, batch(0)[0]), files


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    model.train()
    losses = []
    for step in steps:
        x, labels = batch(step)
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def evaluated(model: nn.Module, count: int = 2) -> nn.Module:
    """The model after ``count`` forwards in eval mode."""
    model.eval()
    for step in range(count):
        run(model, batch(100 + step)[0])
    return model


def save(model: nn.Module, files: Files, **setting: Any) -> None:
    prefix = str(files.folder / "out" / "model")
    amct.save_quant_retrain_model(
        files.config, model, files.record_file, prefix, batch(0, 1)[0], **{**NAMES, **setting}
    )


# --- end to end ---


@pytest.mark.parametrize("cfg", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_the_whole_path_from_float_model_to_files(cfg: str | None, tmp_path: Path) -> None:
    model, files = retrain_model(tmp_path, cfg)
    losses = train(model, optimizer_of(model), range(60))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])

    evaluated(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save(model, files)
    x = batch(7, 3)[0]
    expected = run(model, x)
    (found,) = fx_path.run_onnx(files.fake_quant, x)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)
    made = {
        "deploy_model.onnx", "fake_quant_model.onnx", "quant_param_record.txt", "quant_param_record.bin",
        "manifest.json",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"model_{name}" for name in made}
    assert same_tensors(before, model.state_dict())
    train(model, optimizer_of(model), range(60, 62))  # a save leaves a model that can be trained on


def test_float_model_is_left_as_it_was(tmp_path: Path) -> None:
    float_model = SmallResNet().train()
    before = copy.deepcopy(float_model.state_dict())
    model, _ = retrain_model(tmp_path, model=float_model)
    train(model, optimizer_of(model), range(2))
    assert same_tensors(before, float_model.state_dict())
    assert float_model.training and model.training
    assert not any(isinstance(one, QuantizedLayer) for one in float_model.modules())
    assert before.keys() <= model.state_dict().keys()


def test_both_paths_train_the_same_quantizers_to_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    float_model = SmallResNet().train()
    ulq = "retrain_data_quant_config: { ulq_quantize: { fixed_min: false } }"
    dynamic, _ = retrain_model(tmp_path, ulq, float_model)
    fx = amct.create_quant_model_fx(fx_path.make_config(float_model, tmp_path), float_model)
    amct.enable_quantization(fx, calibration=True, fake_quant=True)
    optimizers = {model: optimizer_of(model) for model in (dynamic, fx)}
    for step in range(4):
        losses = [train(model, optimizer, range(step, step + 1)) for model, optimizer in optimizers.items()]
        assert losses[0] == losses[1]
        amct.enable_quantization(fx, fake_quant=True)


@pytest.mark.parametrize("cfg", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_restored_training_goes_on_to_the_bit(cfg: str | None, tmp_path: Path) -> None:
    model, files = retrain_model(tmp_path, cfg)
    optimizer = optimizer_of(model)
    train(model, optimizer, range(4))
    torch.save({"weights": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "model.pt")
    uninterrupted = train(model, optimizer, range(4, 9))

    record = tmp_path / "restored.txt"
    restored = amct.restore_quant_retrain_model(
        files.config, SmallResNet().train(), record, batch(0)[0], tmp_path / "model.pt", "weights"
    )
    again = optimizer_of(restored)
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True)["optimizer"])
    assert train(restored, again, range(4, 9)) == uninterrupted
    assert same_tensors(model.state_dict(), restored.state_dict())


def test_restored_model_is_saved_after_forwards_in_eval_mode(tmp_path: Path) -> None:
    model, files = retrain_model(tmp_path)
    train(model, optimizer_of(model), range(3))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    save(evaluated(model), files)
    expected, record = files.fake_quant.read_bytes(), files.record
    files.record_file.unlink()  # it would be kept

    model = amct.restore_quant_retrain_model(
        files.config, SmallResNet(), files.record_file, batch(0)[0], tmp_path / "model.pt"
    )
    written = read_record(files.record_file).layers
    assert written["conv1"].weight == record.layers["conv1"].weight  # that of the checkpoint, at once
    assert not written["conv1"].activations
    save(evaluated(model), files)
    assert files.fake_quant.read_bytes() == expected
    assert files.record == record


def test_control_flow_on_values(tmp_path: Path) -> None:
    model, files = retrain_model(tmp_path, model=Decides())
    x = batch(0)[0]
    for _ in range(3):
        run(model, x)
    save(model, files)
    (found,) = fx_path.run_onnx(files.fake_quant, x)
    torch.testing.assert_close(torch.from_numpy(found), run(model, x), rtol=0, atol=1e-5)


# --- phases ---


def test_first_forwards_find_the_ranges(tmp_path: Path) -> None:
    model, _ = retrain_model(tmp_path, ULQ_LNQ)
    model.eval()
    layer = layers_by_name(getattr(model, LAYERS))["conv1"]
    run(model, batch(0)[0])
    assert not layer.activation[0].is_calibrated
    run(model, batch(1)[0])
    found = layer.activation[0].params()
    run(model, 10 * batch(2)[0])
    assert torch.equal(found.scale, layer.activation[0].params().scale)


def test_record_is_that_of_the_first_eval_forwards_after_training(tmp_path: Path) -> None:
    model, files = retrain_model(tmp_path, "batch_num: 2")
    optimizer = optimizer_of(model)
    train(model, optimizer, range(3))
    seen: list[Tensor] = []
    layer = layers_by_name(getattr(model, LAYERS))["layer1.0.conv2"]
    layer.register_forward_hook(lambda _, args, output: seen.append(output))
    evaluated(model, 1)
    assert not files.record.layers["conv1"].activations
    train(model, optimizer, range(3, 5))  # the count begins anew
    seen.clear()
    evaluated(model, 1)
    assert not files.record.layers["conv1"].activations
    evaluated(model, 1)
    record = files.record.layers
    assert all(one.activations for one in record.values())
    assert record["maxpool"].shift_bit == ()

    weight = layer.weighted.present_params()
    unit = layer.activation[0].params().scale * weight.scale
    expected = best_shift(sum(shift_errors(output.detach(), unit.detach()) for output in seen))
    assert record["layer1.0.conv2"].shift_bit == tuple(expected.tolist())
    evaluated(model, 3)  # later forwards change nothing
    assert files.record.layers == record


def test_layer_that_takes_part_later_gets_its_range_then(tmp_path: Path, log_lines: LogLines) -> None:
    class Switch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 5, 1)
            self.skips = False

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return y if self.skips else self.second(y)

    model, files = retrain_model(tmp_path, model=Switch())
    model.skips = True
    evaluated(model, 3)
    assert any("second" in line and "not written" in line for line in log_lines.warnings)
    assert not files.record.layers["first"].activations
    model.skips = False
    model.train()
    run(model, batch(0)[0])
    evaluated(model, 1)
    assert files.record.layers["second"].activations


def test_frozen_batch_norms_stay_in_eval_mode(tmp_path: Path) -> None:
    model, _ = retrain_model(tmp_path)
    train(model, optimizer_of(model), range(2))
    amct.freeze_batch_norm(model)
    statistics = model.bn1.running_mean.clone()
    train(nn.Sequential(model), optimizer_of(model), range(2))
    assert torch.equal(statistics, model.bn1.running_mean)
    assert model.training and not model.bn1.training and not model.layer1[0].bn2.training
    copied = copy.deepcopy(model)
    assert not copied.train().bn1.training and copied.bn1 is not model.bn1
    amct.freeze_batch_norm(model, False)
    assert model.bn1.training
    train(model, optimizer_of(model), range(1))
    assert not torch.equal(statistics, model.bn1.running_mean)


# --- layers with several uses ---


class SharedBlocks(nn.Module):
    """As torchvision's ResNet: one in-place ReLU per block, and here one convolution with its BatchNorm, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(True)
        self.fc = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn(self.conv(x)))
        out = self.bn(self.conv(out))
        out += x
        return self.fc(self.relu(out).mean((2, 3)))


@pytest.mark.parametrize("cfg", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_shared_modules_train_and_are_saved(cfg: str | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained, files = retrain_model(tmp_path, cfg, SharedBlocks().train())
    assert [name for name in files.document if name not in ("version", "batch_num")] == ["conv", "relu", "fc"]
    losses = train(trained, optimizer_of(trained), range(40))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    save(evaluated(trained), files)
    assert list(files.record.layers) == ["conv", "relu", "fc"]
    grids = Interpreter(*files.deploy_pair).pair.layers
    assert {"conv", "conv:1", "relu:1"} <= {name for name, layer in grids.items() if layer.grids}
    assert not grids["relu"].grids
    x = batch(1)[0]
    found = torch.from_numpy(fx_path.run_onnx(files.fake_quant, x)[0])
    torch.testing.assert_close(found, run(trained, x), rtol=1e-4, atol=1e-4)


def test_gradient_checkpoints_do_not_change_what_a_layer_is(tmp_path: Path) -> None:
    """The backward runs a part of the model once more: calls cannot be counted."""

    class Checkpointed(SharedBlocks):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(super().forward, x, use_reentrant=False)

    gradients = []
    for kind in (SharedBlocks, Checkpointed):
        torch.manual_seed(0)
        model = kind()
        trained, _ = retrain_model(tmp_path / kind.__name__, None, model.train())
        amct.freeze_batch_norm(trained, True)  # a second forward would move its statistics
        with torch.no_grad():
            trained(batch(0)[0])
        trained(batch(1)[0]).square().sum().backward()
        gradients.append(trained.conv.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


# --- what is refused ---


def test_reused_activation_behind_convolutions_only_is_no_layer(tmp_path: Path) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.relu = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.second(self.relu(self.first(x))))

    files = configured(Shared(), tmp_path)
    assert list(files.document) == ["version", "batch_num", "first", "second"]


@dataclasses.dataclass(frozen=True)
class Refused:
    error: type[AmctError]
    text: str
    prepare: Callable[[nn.Module, Files], Any]


def trained_on(model: nn.Module, files: Files) -> None:
    evaluated(model)
    train(model, optimizer_of(model), range(3, 5))


def of_another_configuration(model: nn.Module, files: Files) -> None:
    evaluated(model)
    files.change_layers("layer1.0.relu2", retrain_enable=False)


REFUSED = {
    "no forward in eval mode": Refused(CalibrationError, "lacks factors of .* in eval mode", lambda model, files: None),
    "trained since": Refused(CalibrationError, "The ranges of .* have changed .*conv1.* in eval mode", trained_on),
    "other configuration": Refused(ConfigError, "not the configuration .*layer1.0.relu2", of_another_configuration),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_save_is_refused(case: Refused, tmp_path: Path) -> None:
    model, files = retrain_model(tmp_path)
    train(model, optimizer_of(model), range(3))
    case.prepare(model, files)
    with pytest.raises(case.error, match=re.compile(case.text, re.DOTALL)):
        save(model, files)
    assert not (tmp_path / "out").exists()
    assert LAYERS in dict(model.named_children())
    train(model, optimizer_of(model), range(1))


def test_changed_weights_are_written_beside_the_record(tmp_path: Path) -> None:
    model, files = retrain_model(tmp_path)
    train(model, optimizer_of(model), range(3))
    evaluated(model)
    record = files.record
    with torch.no_grad():
        model.bn1.running_var.mul_(4)
    save(model, files)
    assert files.record == record
    updated = read_record(tmp_path / "record_update.txt")
    old, new = (one.layers["conv1"].weight for one in (record, updated))
    assert old is not None and new is not None
    torch.testing.assert_close(torch.tensor(new.scale) * 2, torch.tensor(old.scale), rtol=1e-3, atol=0)
    assert updated.layers["fc"] == record.layers["fc"]
    (found,) = fx_path.run_onnx(files.fake_quant, batch(0)[0])
    torch.testing.assert_close(torch.from_numpy(found), run(model, batch(0)[0]), rtol=0, atol=1e-4)


def test_checkpoint_of_other_quantizers(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other, _ = retrain_model(tmp_path / "other", ULQ_LNQ)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    files = configured(SmallResNet(), tmp_path)
    arguments = (files.config, SmallResNet(), files.record_file, batch(0)[0], tmp_path / "other.pt")
    with pytest.raises(ConfigError, match="does not fit the model and its configuration"):
        amct.restore_quant_retrain_model(*arguments)
    with pytest.raises(ConfigError, match="no key 'weights'"):
        amct.restore_quant_retrain_model(*arguments, "weights")


def test_wrong_calls(tmp_path: Path) -> None:
    model, files = retrain_model(tmp_path)
    with pytest.raises(TypeError, match=r"'save_path' must be a string.*in order.*record_file, save_path, input_data"):
        amct.save_quant_retrain_model(files.config, model, files.record_file, batch(0)[0], ["input"])
    with pytest.raises(TypeError, match="arguments in order: create_quant_retrain_model"):
        amct.create_quant_retrain_model(files.config, model, record=files.record_file, input_data=batch(0)[0])
    with pytest.raises(UnsupportedModelError, match="quantized already"):
        amct.create_quant_retrain_model(files.config, model, files.record_file, batch(0)[0])
    with pytest.raises(ConfigError, match="contains no model made by create_quant_retrain_model or restore"):
        save(SmallResNet(), files)
    with pytest.raises(ConfigError, match="contains no model made by quantize_model"):
        amct.update_bn_status(model, True)
    with pytest.raises(UnsupportedModelError, match="cannot run in DataParallel"):
        amct.freeze_batch_norm(nn.DataParallel(model))


def test_rules_of_the_hardware_are_checked_first(tmp_path: Path) -> None:
    files = configured(SmallResNet(), tmp_path)
    files.change_layers("conv1", retrain_enable=False)
    with pytest.raises(
        UnsupportedModelError, match=r"Layer conv1.* must be quantized as it is an operation .* on CUBE"
    ):
        amct.create_quant_retrain_model(files.config, SmallResNet(), files.record_file, batch(0)[0])
    assert not files.record_file.exists()


def test_positional_call_with_none(tmp_path: Path) -> None:
    model, files = retrain_model(tmp_path)
    evaluated(model, 3)
    prefix = tmp_path / "new" / "net"
    amct.save_quant_retrain_model(files.config, model, files.record_file, prefix, batch(0)[0], None, None, None)
    assert (tmp_path / "new" / "net_deploy_model.onnx").exists()
