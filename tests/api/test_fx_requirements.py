"""Guarantees of the FX path about models, states and checkpoints (spec 1.6, 2, 15)."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.config.files.tolerant_json import read_json
from hotwheels.amct_pytorch.nn.mode import Mode
from tests.support.fx_path import calibrate, make_config, quantize, run_fake, run_float, run_onnx, run_real
from tests.support.log_lines import LogLines
from tests.support.nets import Residual, Tokens

_FILES = {
    "deploy_model.onnx", "fake_quant_model.onnx", "float_model.onnx",
    "quant_param_record.txt", "quant_param_record.bin",
    "scale_offset_record.txt", "manifest.json",
}  # fmt: skip


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 6, 6)


def tokens(batch: int = 2, length: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.randint(0, 9, (batch, length), dtype=torch.int32)
    return ids, torch.ones(batch, length, dtype=torch.int64), torch.randn(batch, length, 6)


# --- the caller's model ---


@pytest.mark.parametrize("is_training", [True, False])
def test_callers_model_is_untouched(is_training: bool, tmp_path: Path) -> None:
    model = Residual().train(is_training)
    seen: list[Tensor] = []
    model.conv1.register_forward_hook(lambda module, args, result: seen.append(result))
    before = copy.deepcopy(model.state_dict())
    modules = dict(model.named_modules())
    quantized = quantize(model, tmp_path, [(images(),)])
    run_fake(quantized, images())
    amct.save_quant_model_fx(quantized, tmp_path / "out", images(1))
    assert dict(model.named_modules()) == modules
    assert model.stem[2].inplace
    assert all(module.training is is_training for module in modules.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(model.conv1._forward_hooks) == 1
    assert quantized.training is is_training
    seen.clear()
    copy.deepcopy(model)(images())
    assert len(seen) == 1


def test_new_model_is_float_and_equal_to_the_bit(tmp_path: Path) -> None:
    model, x = Residual().eval(), images()
    quantized = amct.create_quant_model_fx(make_config(model, tmp_path), model)
    assert torch.equal(quantized(x), model(x))
    assert quantized.mode is Mode.FLOAT


def test_state_dict_is_a_superset(tmp_path: Path) -> None:
    model = Residual()
    quantized = amct.create_quant_model_fx(make_config(model, tmp_path), model)
    state, original = quantized.state_dict(), model.state_dict()
    assert original.keys() < state.keys()
    assert all(isinstance(value, Tensor) for value in state.values())
    layers = {*quantized.quantized_layers, "_freezes_batch_norm"}
    assert {name.split(".")[1] for name in state.keys() - original.keys()} <= layers


def test_shapes_of_the_state_do_not_change_with_calibration(tmp_path: Path) -> None:
    model = Residual()
    quantized = amct.create_quant_model_fx(make_config(model, tmp_path), model)
    before = {name: value.shape for name, value in quantized.state_dict().items()}
    calibrate(quantized, [(images(),)])
    assert {name: value.shape for name, value in quantized.state_dict().items()} == before


# --- names and files ---


class Named(nn.Module):
    """Names which torch.fx counts up, shadows or makes snake case."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 3, 1), nn.SiLU()) for _ in range(2)])
        self.convLast = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        x = self.layers[0][0](x)
        x = abs(x).pow(2) / 2
        y = torch.matmul(x, x) @ x
        return self.convLast(y.matmul(x)) + y.sum(1, keepdim=True) - torch.max(x, y)


def test_layer_names_are_those_of_torch_fx(tmp_path: Path) -> None:
    path = make_config(Named(), tmp_path)
    assert list(read_json(path)) == [
        "layers_0_0", "layers_0_1", "add", "layers_1_0", "layers_1_1", "add_1", "layers_0_2", "abs_1", "pow_1",
        "truediv", "matmul", "matmul_1", "matmul_2", "conv_last", "sum_1", "add_2", "max_1", "sub",
    ]  # fmt: skip


def test_a_folder_is_no_configuration(tmp_path: Path, log_lines: LogLines) -> None:
    with pytest.raises(IsADirectoryError, match=f"'config_file' is the folder '{tmp_path}'"):
        amct.create_quant_config_fx(tmp_path, Residual().eval())
    assert not log_lines.warnings


def test_a_key_that_every_layer_gets_is_one_warning(tmp_path: Path, log_lines: LogLines) -> None:
    data = "{quantizer: UlqFakeQuantize, quantizer_args: {num_bit: 8}}"
    (tmp_path / "simple.yaml").write_text(f"common_config: {{activation_quant_params: {data}}}")
    amct.create_quant_config_fx(tmp_path / "config.json", Named(), tmp_path / "simple.yaml")
    warning, _ = log_lines.warnings  # the other is that the inputs of the three matmuls have no offset
    assert "places: unknown key 'num_bit' is ignored. Did you mean 'num_bits'? Places: Layer 'layers_0_0' in" in warning
    assert warning.endswith(" more.")


def test_folders_are_made_and_files_replaced_with_a_warning(tmp_path: Path, log_lines: LogLines) -> None:
    model, config = Residual().eval(), tmp_path / "a" / "b" / "config.json"
    amct.create_quant_config_fx(config, model)
    assert not log_lines.warnings
    amct.create_quant_config_fx(str(config), model)
    assert f"'{config}' exists and is replaced" in log_lines.warnings[0]
    quantized = amct.create_quant_model_fx(config, model)
    calibrate(quantized, [(images(),)])
    amct.save_quant_model_fx(quantized, f"{tmp_path}/c/d/", images(1))
    assert {path.name for path in (tmp_path / "c" / "d").iterdir()} == _FILES
    amct.save_quant_model_fx(quantized, tmp_path / "c" / "net", images(1))
    assert {path.name for path in (tmp_path / "c").glob("net*")} == {f"net_{name}" for name in _FILES}


def test_both_spellings_of_config_definition(tmp_path: Path) -> None:
    simple = tmp_path / "simple.yaml"
    simple.write_text("skip_layers: [conv1]\n")
    for name in ("config_definition", "config_defination"):
        amct.create_quant_config_fx(tmp_path / f"{name}.json", Residual(), **{name: simple})
        assert read_json(tmp_path / f"{name}.json")["conv1"]["quant_enable"] is False
    with pytest.raises(TypeError, match="two spellings of one argument"):
        amct.create_quant_config_fx(tmp_path / "x.json", Residual(), config_definition=simple, config_defination=simple)


# --- calibration ---


def test_batch_16_calibrates_and_batch_1_exports(tmp_path: Path) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [(images(16),)])
    amct.save_quant_model_fx(quantized, tmp_path / "out", images(1), {"dynamic_axes": {"image": [0]}})
    assert run_onnx(tmp_path / "out_fake_quant_model.onnx", images(7))[0].shape == (7, 5)


def test_extra_batches_are_ignored_with_a_warning(tmp_path: Path, log_lines: LogLines) -> None:
    x, model = images(), Residual().eval()
    quantized = quantize(model, tmp_path, [(x,)])
    before = run_fake(quantized, x)
    torch.save(quantized.state_dict(), tmp_path / "state.pt")
    for one in (quantized, amct.restore_quant_model_fx(tmp_path / "config.json", model, tmp_path / "state.pt")):
        log_lines.lines.clear()
        calibrate(one, [(100 * images(),), (100 * images(9),)])
        assert len([line for line in log_lines.warnings if "have their grids" in line]) == 1
        assert torch.equal(run_fake(one, x), before)


def test_one_batch_norm_left_in_training_mode_is_warned_of(tmp_path: Path, log_lines: LogLines) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [])
    name = next(name for name, one in quantized.named_modules() if isinstance(one, nn.BatchNorm2d))
    quantized.get_submodule(name).train()
    amct.enable_quantization(quantized, calibration=True)
    with torch.no_grad():
        quantized(images()), quantized(images())
    (warning,) = [line for line in log_lines.warnings if "training mode" in line]
    assert f"BatchNorm2d '{name}'" in warning


def test_evaluation_in_training_mode_is_warned_of_once_and_training_is_not(tmp_path: Path, log_lines: LogLines) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [(images(),)])
    amct.enable_quantization(quantized, fake_quant=True)
    quantized.train()
    quantized(images()).sum().backward()
    with torch.no_grad():
        quantized.eval()(images())
        assert not [line for line in log_lines.warnings if "training mode" in line]
        quantized.train()
        for _ in range(2):
            quantized(images())
    (warning,) = [line for line in log_lines.warnings if "training mode" in line]
    assert "Call model.eval() to evaluate" in warning


def test_calibration_can_be_interrupted(tmp_path: Path) -> None:
    """batch_num 2: the states in between neither lose nor add a batch."""
    model, batches = Residual().eval(), [(images(),), (3 * images(),)]
    layers = {
        "conv1": {"activation_quant_params": [{"quantizer": "UlqFakeQuantize", "quantizer_args": {"batch_num": 2}}]}
    }
    whole = quantize(model, tmp_path, batches, layers)
    parts = quantize(model, tmp_path, batches[:1], layers)
    run_float(parts, 50 * images())
    calibrate(parts, batches[1:])
    x = images()
    assert torch.equal(run_fake(parts, x), run_fake(whole, x))


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("with_grad", [True, False])
def test_calibration_is_a_float_forward(is_training: bool, with_grad: bool, tmp_path: Path) -> None:
    model, x = Residual().train(is_training), images()
    quantized = amct.create_quant_model_fx(make_config(model, tmp_path), model)
    amct.enable_quantization(quantized, calibration=True)
    with torch.set_grad_enabled(with_grad):
        assert torch.equal(quantized(x), model(x))
    assert all(layer.is_calibrated for layer in quantized.quantized_layers.values())


def test_modes_before_calibration_name_the_layer(tmp_path: Path) -> None:
    model = Residual()
    quantized = amct.create_quant_model_fx(make_config(model, tmp_path), model)
    for run in (run_fake, run_real):
        with pytest.raises(amct.CalibrationError, match="'stem_0' is not calibrated"):
            run(quantized, images())


def test_non_finite_calibration_data_names_the_layer(tmp_path: Path) -> None:
    x = images()
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(amct.CalibrationError, match="stem_0"):
        quantize(Residual().eval(), tmp_path, [(x,)])


def test_pre_calibration_quantizes_what_is_calibrated(tmp_path: Path) -> None:
    layers = {
        "conv1": {"activation_quant_params": [{"quantizer": "UlqFakeQuantize", "quantizer_args": {"batch_num": 2}}]}
    }
    model, x = Residual().eval(), images()
    quantized = amct.create_quant_model_fx(make_config(model, tmp_path, layers), model)
    amct.enable_quantization(quantized, True, True)
    with torch.no_grad():
        first = quantized(x)
    done = {name: layer.is_calibrated for name, layer in quantized.quantized_layers.items()}
    assert not torch.equal(first, model(x))
    assert not done["conv1"]
    assert done["stem_0"]
    with torch.no_grad():
        quantized(x)
    assert quantized.quantized_layers["conv1"].is_calibrated
    run_fake(quantized, x)


# --- states ---

_STATES = {
    (False, False, False): Mode.FLOAT,
    (True, False, False): Mode.CALIBRATION,
    (True, True, False): Mode.PRE_CALIBRATION,
    (False, True, False): Mode.FAKE_QUANT,
    (False, False, True): Mode.REAL_QUANT,
}


@pytest.mark.parametrize("switches", list(itertools.product([False, True], repeat=3)))
def test_all_combinations_of_the_switches(switches: tuple[bool, bool, bool], tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    quantized = amct.create_quant_model_fx(make_config(model, tmp_path), model)
    if switches in _STATES:
        amct.enable_quantization(quantized, *switches)
        assert quantized.mode is _STATES[switches]
    else:
        with pytest.raises(amct.ConfigError, match="is not a state"):
            amct.enable_quantization(quantized, *switches)


def test_switching_changes_no_value(tmp_path: Path) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [(images(),)])
    x = images()
    first = run_fake(quantized, x), run_real(quantized, x), run_float(quantized, x)
    before = {name: value.clone() for name, value in quantized.state_dict().items()}
    for switches in _STATES:
        amct.enable_quantization(quantized, *switches)
    assert all(torch.equal(value, before[name]) for name, value in quantized.state_dict().items())
    again = run_fake(quantized, x), run_real(quantized, x), run_float(quantized, x)
    assert all(torch.equal(left, right) for left, right in zip(first, again, strict=True))


@pytest.mark.parametrize("is_training", [True, False])
def test_real_quant_gives_float32_and_the_gradients_of_fake_quant(is_training: bool, tmp_path: Path) -> None:
    quantized = quantize(Residual().train(is_training), tmp_path, [(images(),)])
    x = images()
    gradients = []
    for switch in ({"fake_quant": True}, {"real_quant": True}):
        twin = copy.deepcopy(quantized)
        amct.enable_quantization(twin, **switch)
        result = twin(x)
        assert result.dtype == torch.float32
        result.backward(torch.ones_like(result))
        gradients.append({name: one.grad for name, one in twin.named_parameters() if one.grad is not None})
    fake, real = gradients
    assert fake.keys() == real.keys()
    assert "conv1.weight" in fake
    assert all(torch.equal(fake[name], real[name]) for name in fake)


def test_real_quant_trains_the_statistics_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)).train()
    quantized = quantize(model, tmp_path, [(images(),)])
    twin = copy.deepcopy(quantized)
    x = images()
    for one, switch in ((quantized, {"real_quant": True}), (twin, {"fake_quant": True})):
        amct.enable_quantization(one, **switch)
        one(x)
    state, expected = (one.get_submodule("0").state_dict() for one in (quantized, twin))
    assert int(state["num_batches_tracked"]) == 2  # calibration was the first
    assert all(torch.equal(value, expected[name]) for name, value in state.items())


def test_quantized_part_of_a_larger_model(tmp_path: Path) -> None:
    class Larger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 3, 1), Residual())
            self.tail = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.tail(self.body(x))

    larger, x = Larger().eval(), images()
    before = larger(x)
    larger.body[1] = amct.create_quant_model_fx(make_config(larger.body[1], tmp_path), larger.body[1])
    wrapper = nn.ModuleDict({"inner": nn.Sequential(larger)})
    assert torch.equal(larger(x), before)
    amct.enable_quantization(wrapper, calibration=True)
    larger(x)
    amct.enable_quantization(wrapper, fake_quant=True)
    assert larger.body[1].mode is Mode.FAKE_QUANT
    assert not torch.equal(larger(x), before)
    amct.save_quant_model_fx(larger.body[1], tmp_path / "part", images(1))


def test_model_moves_after_creation(tmp_path: Path) -> None:
    """The only device here is the CPU; float64 passes every tensor through the same ``_apply``."""
    quantized = quantize(Residual().eval(), tmp_path, [(images(),)])
    x = images()
    before = run_fake(quantized, x)
    assert torch.equal(run_fake(quantized.to("cpu"), x), before)
    assert torch.equal(run_fake(copy.deepcopy(quantized), x), before)


# --- data that is not float ---


def test_integers_masks_and_sizes_pass_through(tmp_path: Path) -> None:
    quantized = quantize(Tokens().eval(), tmp_path, [tokens()])
    layers = quantized.quantized_layers
    assert not layers["add"].is_quantized  # ids + 1
    assert layers["add_1"].is_quantized
    assert "add_2" not in layers  # torch.Size + tuple
    inputs = tokens(3, 4)
    fake, real = run_fake(quantized, *inputs)[0], run_real(quantized, *inputs)[0]
    assert fake.shape == (3, 12)
    assert torch.allclose(fake, real, atol=0.05)
    amct.save_quant_model_fx(
        quantized, tmp_path / "out", tokens(1, 4), {"dynamic_axes": {n: [0] for n in ("ids", "mask", "states")}}
    )
    onnx_result = run_onnx(tmp_path / "out_fake_quant_model.onnx", *inputs)[0]
    assert abs(onnx_result - fake.numpy()).max() < 0.02


# --- dumps ---


def test_dump_writes_every_node_of_the_next_forward_in_any_state(tmp_path: Path) -> None:
    quantized, x = quantize(Residual().eval(), tmp_path, [(images(),)]), images()
    for switches in _STATES:
        folder = tmp_path / "dump" / "".join("ft"[one] for one in switches)
        amct.enable_quantization(quantized, *switches)
        amct.enable_dump(quantized, folder)
        with torch.no_grad():
            dumped, after = quantized(image=x), quantized(x)
        assert torch.equal(dumped, after)
        names = {path.name.partition("_output0")[0] for path in folder.iterdir()}
        assert names == {"image", "stem_0", "stem_2", "conv1", "add", "relu", "pool", "flatten", "head"}
        assert np.array_equal(np.load(folder / "head_output0_4_5_pytorch.npy"), dumped.numpy())


# --- checkpoints ---


def _saved(tmp_path: Path, is_nested: bool = False, prefix: str = "") -> tuple[Any, Path]:
    model = Residual().eval()
    quantized = quantize(model, tmp_path, [(images(),)])
    state = {f"{prefix}{name}": value for name, value in quantized.state_dict().items()}
    path = tmp_path / "model.pt"
    torch.save({"quant_model_weights": state, "epoch": torch.tensor(3)} if is_nested else state, path)
    return quantized, path


@pytest.mark.parametrize(("is_nested", "prefix"), [(False, ""), (True, ""), (False, "module."), (True, "module.")])
def test_restored_model_is_the_saved_one(is_nested: bool, prefix: str, tmp_path: Path) -> None:
    quantized, path = _saved(tmp_path, is_nested, prefix)
    key = ["quant_model_weights"] if is_nested else []
    restored = amct.restore_quant_model_fx(tmp_path / "config.json", Residual().eval(), path, *key)
    assert restored.mode is Mode.FLOAT
    x = images()
    for run in (run_float, run_fake, run_real):
        assert torch.equal(run(restored, x), run(quantized, x))
    calibrate(restored, [(100 * x,)])
    assert torch.equal(run_fake(restored, x), run_fake(quantized, x))
    amct.save_quant_model_fx(restored, tmp_path / "out", images(1))


def test_restored_tokens_keep_what_was_not_float_and_what_was_made_symmetric(tmp_path: Path) -> None:
    quantized = quantize(Tokens().eval(), tmp_path, [tokens()])
    torch.save(quantized.state_dict(), tmp_path / "model.pt")
    restored = amct.restore_quant_model_fx(tmp_path / "config.json", Tokens().eval(), tmp_path / "model.pt")
    inputs = tokens(5)
    for run in (run_fake, run_real):
        for left, right in zip(run(restored, *inputs), run(quantized, *inputs), strict=True):
            assert torch.equal(left, right)
    amct.save_quant_model_fx(restored, tmp_path / "out", tokens(1))


# --- training ---


def test_ddp_wrapper_is_switched_and_saved(tmp_path: Path) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        quantized = DistributedDataParallel(quantize(Residual(), tmp_path, [(images(),)]))
        amct.enable_quantization(quantized, fake_quant=True)
        quantized(images()).mean().backward()
        amct.save_quant_model_fx(quantized, tmp_path / "out", images(1))
        torch.save(quantized.state_dict(), tmp_path / "model.pt")
    finally:
        torch.distributed.destroy_process_group()
    restored = amct.restore_quant_model_fx(tmp_path / "config.json", Residual(), tmp_path / "model.pt")
    assert torch.equal(run_fake(restored.eval(), x := images()), run_fake(quantized.module.eval(), x))


def test_fake_quant_training_learns(tmp_path: Path) -> None:
    quantized = quantize(Residual().train(), tmp_path, [(images(),)])
    amct.enable_quantization(quantized, fake_quant=True)
    optimizer, x, target = torch.optim.Adam(quantized.parameters(), 0.01), images(8), torch.randn(8, 5)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (quantized(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]
