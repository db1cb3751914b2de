"""Forward hooks and pre-hooks act in every mode and in every file (spec 3, 8.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.errors import UnsupportedModelError
from tests.support import fx_path
from tests.support.dynamic_path import Files, calibrated, run

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class TwoInputs(nn.Module):
    """A convolution of ``pair["image"]`` times a number, plus a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, pair: dict[str, Tensor], shift: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = self.last(torch.relu(self.conv(pair["image"])))
        return y, {"shifted": y + shift}


def doubles_images(_: nn.Module, args: Any) -> Any:
    pair, shift = args
    return {"image": 2 * pair["image"]}, shift


def takes_shifted(_: nn.Module, args: Any, kwargs: Any, result: Any) -> Tensor:
    return 3 * result[1]["shifted"] + args[1]


def with_root_hooks() -> nn.Module:
    torch.manual_seed(0)
    model = TwoInputs().eval()
    model.register_forward_pre_hook(doubles_images)
    model.register_forward_hook(takes_shifted, with_kwargs=True)
    return model


def test_hooks_on_the_whole_model_act_on_the_dynamic_path(tmp_path: Path) -> None:
    model, inputs = with_root_hooks(), ({"image": X}, torch.ones(1))
    expected = run(model, *inputs)
    quantized, files = calibrated(model, tmp_path, [inputs])
    files.save()
    [in_float] = fx_path.run_onnx(files.onnx, X, torch.ones(1))
    torch.testing.assert_close(torch.from_numpy(in_float), expected, rtol=1e-5, atol=1e-5)
    fake = run(quantized, *inputs)
    [in_file] = fx_path.run_onnx(files.fake_quant, X, torch.ones(1))
    step = 3 * files.record.layers["last"].activations[0].scale
    assert abs(fake - expected).max() <= 0.05 * abs(expected).max()
    assert abs(torch.from_numpy(in_file) - fake).max() <= step  # sums in another order, next to a tie
    amct.enable_quantization(quantized, real_quant=True)
    assert abs(run(quantized, *inputs) - expected).max() <= 0.05 * abs(expected).max()
    amct.enable_quantization(quantized)
    assert torch.equal(run(quantized, *inputs), expected)


def test_hooks_on_the_whole_model_act_when_it_is_trained(tmp_path: Path) -> None:
    model, inputs, files = with_root_hooks(), ({"image": X}, torch.ones(1)), Files(tmp_path)
    expected = run(model, *inputs)
    amct.create_quant_retrain_config(files.config, model, inputs)
    quantized = amct.create_quant_retrain_model(files.config, model, files.record_file, inputs)
    quantized.train()
    quantized(*inputs).sum().backward()
    assert quantized.conv.weight.grad.abs().sum() > 0
    run(quantized.eval(), *inputs)
    amct.save_quant_retrain_model(files.config, quantized, files.record_file, str(tmp_path / "out" / "model"), inputs)
    [in_file] = fx_path.run_onnx(files.fake_quant, X, torch.ones(1))
    assert abs(torch.from_numpy(in_file) - expected).max() <= 0.05 * abs(expected).max()


def test_hook_on_the_copy_reads_the_copy(tmp_path: Path) -> None:
    """A hook is a closure over the user's model as a rule, and must follow the weights that are trained."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)).eval()
    gain = nn.Parameter(torch.tensor(2.0))
    model[0].register_parameter("gain", gain)
    model[0].register_forward_hook(lambda module, args, result: result * model[0].gain)
    quantized, _ = calibrated(model, tmp_path, [(X,)])
    amct.enable_quantization(quantized)
    with torch.no_grad():
        quantized[0].gain.zero_()
    assert torch.equal(run(quantized, X), run(model[1], torch.zeros(2, 4, 6, 6)))


# --- modules that are layers, and those around them ---


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.block = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.relu(self.bn(self.conv(x)))).mean((2, 3)))


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "pre-hook with kwargs": lambda module: module.register_forward_pre_hook(
        lambda _, args, kwargs: ((args[0] * 2 - 1,), kwargs), with_kwargs=True
    ),
    "hook": lambda module: module.register_forward_hook(lambda _, args, result: result * 3 + 1 + args[0].mean()),
    "hook in place": lambda module: module.register_forward_hook(lambda _, args, result: result.mul_(3)),
}


@pytest.mark.parametrize("quantize", ["fx", "dynamic"])
@pytest.mark.parametrize("mode", [{}, {"fake_quant": True}, {"real_quant": True}], ids=["float", "fake", "real"])
def test_hooks_set_on_a_quantized_model_run_in_every_mode(quantize: str, mode: dict[str, bool], tmp_path: Path) -> None:
    """They see each module, and what they return goes on; tensors they keep are not overwritten by the next layer."""
    torch.manual_seed(0)
    model, _ = PATHS[quantize](Small().eval(), tmp_path)
    amct.enable_quantization(model, **mode)
    plain = run(model, X)
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _, args, result: seen.setdefault(name, []).extend((result, result.clone()))

    modules = ["conv", "bn", "relu", "fc", *(["block"] if quantize == "dynamic" else []), "block.0"]
    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in modules]
    assert torch.equal(run(model, X), plain)
    assert {name: len(both) for name, both in seen.items()} == dict.fromkeys(modules, 2)
    assert all(torch.equal(kept, copied) for kept, copied in seen.values())
    for handle in handles:
        handle.remove()
    model.fc.register_forward_hook(lambda _, args, result: result * 2)
    assert torch.equal(run(model, X), plain * 2)


def test_hooks_on_a_container_of_a_graph_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, _ = PATHS["fx"](Small().eval(), tmp_path)
    model.block.register_forward_hook(lambda *_: None)
    run(model, X), run(model, X)
    assert [one.message for one in caplog.records if "Hooks on 'block' do not run" in one.message] == [mock.ANY]


@pytest.mark.parametrize("quantize", ["fx", "dynamic"])
def test_backward_hooks_set_on_a_quantized_model(quantize: str, tmp_path: Path) -> None:
    model, _ = PATHS[quantize](Small().eval(), tmp_path)
    given: list[Tensor] = []
    model.get_submodule("block.0").register_full_backward_hook(lambda _, inputs, outputs: given.extend(inputs))
    model(X).sum().backward()
    assert [tuple(one.shape) for one in given] == [(2, 8, 6, 6)]


Path2Quantized = Callable[[nn.Module, Path], tuple[nn.Module, Path]]


def by_fx(model: nn.Module, folder: Path, **example: Any) -> tuple[nn.Module, Path]:
    """Returns the calibrated model in fake_quant, and its fake_quant file."""
    config = folder / "config.json"
    amct.create_quant_config_fx(config, model, **example)
    quantized = amct.create_quant_model_fx(config, model, **example).eval()
    amct.enable_quantization(quantized, calibration=True)
    run(quantized, X)
    amct.enable_quantization(quantized, fake_quant=True)
    amct.save_quant_model_fx(quantized, folder / "out" / "model", X)
    return quantized, folder / "out" / "model_fake_quant_model.onnx"


def by_fx_with_example(model: nn.Module, folder: Path) -> tuple[nn.Module, Path]:
    return by_fx(model, folder, input_data=X)


def by_dynamic(model: nn.Module, folder: Path) -> tuple[nn.Module, Path]:
    quantized, files = calibrated(model, folder, [(X,)])
    files.save()
    return quantized, files.fake_quant


PATHS: dict[str, Path2Quantized] = {"fx": by_fx, "fx, example": by_fx_with_example, "dynamic": by_dynamic}


@pytest.mark.parametrize("quantize", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS.keys())
@pytest.mark.parametrize("path", ["", "conv", "bn", "relu", "block"])
def test_hook_acts_in_every_mode_and_file(
    path: str, hook: Callable[[nn.Module], Any], quantize: Path2Quantized, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Small().eval()
    hook(model.get_submodule(path))
    expected = run(model, X)
    quantized, file = quantize(model, tmp_path)
    largest = 0.05 * abs(expected).max()  # a hook that is lost changes far more
    assert abs(run(quantized, X) - expected).max() <= largest
    assert abs(torch.from_numpy(fx_path.run_onnx(file, X)[0]) - expected).max() <= largest
    amct.enable_quantization(quantized, real_quant=True)
    assert abs(run(quantized, X) - expected).max() <= largest
    amct.enable_quantization(quantized)
    assert torch.equal(run(quantized, X), expected)


def test_hook_that_cannot_be_traced_is_named(tmp_path: Path) -> None:
    def by_sign(_: nn.Module, args: Any, result: Tensor) -> Tensor:
        return result if result.sum() > 0 else -result

    model = Small().eval()
    model.block[0].register_forward_hook(by_sign)
    for example in ({}, {"input_data": X}):
        with pytest.raises(UnsupportedModelError, match=r"by_sign on 'block\.0' \(Conv2d\) cannot be traced"):
            amct.create_quant_config_fx(tmp_path / "config.json", model, **example)


def test_hook_on_an_fx_model_reads_the_copy(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Small().eval()
    model.conv.register_forward_hook(lambda module, args, result: model.block[0](result))
    expected = run(model, X)
    quantized, _ = by_fx(model, tmp_path)
    amct.enable_quantization(quantized)
    assert torch.equal(run(quantized, X), expected)
    with torch.no_grad():
        model.block[0].weight.zero_()
    assert torch.equal(run(quantized, X), expected)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.fc(x.flatten(1, 2)))
        return self.lstm(self.attention(x, x, x)[0])[0]


WHOLE: dict[str, Callable[[Recurrent], Any]] = {
    "attention": lambda model: model.attention.register_forward_hook(lambda _, args, result: (3 * result[0], None)),
    "encoder layer": lambda model: model.layer.register_forward_hook(lambda _, args, result: 3 * result),
    "inside an encoder layer": lambda model: model.layer.linear2.register_forward_hook(
        lambda _, args, result: 3 * result
    ),
    "lstm": lambda model: model.lstm.register_forward_hook(lambda _, args, result: (3 * result[0], result[1])),
    "pruned lstm": lambda model: prune.l1_unstructured(model.lstm, "weight_hh_l0", 0.5),
}


@pytest.mark.parametrize("hook", WHOLE.values(), ids=WHOLE.keys())
def test_hook_on_a_module_of_many_operations_acts(hook: Callable[[Recurrent], Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Recurrent().eval()
    hook(model)
    expected = run(model, X)
    quantized, file = by_fx_with_example(model, tmp_path)
    largest = 0.1 * abs(expected).max()
    assert abs(run(quantized, X) - expected).max() <= largest
    assert abs(torch.from_numpy(fx_path.run_onnx(file, X)[0]) - expected).max() <= largest
    amct.enable_quantization(quantized)
    torch.testing.assert_close(run(quantized, X), expected, rtol=1e-5, atol=1e-5)  # attention by another kernel


def test_hook_that_computes_a_bias_is_refused(tmp_path: Path) -> None:
    model = Small().eval()
    prune.l1_unstructured(model.conv, "bias", 0.5)
    with pytest.raises(UnsupportedModelError, match=r"L1Unstructured on 'conv' \(Conv2d\) computes its 'bias'"):
        amct.create_quant_config_fx(tmp_path / "config.json", model)


# --- what acts in training only ---


class Dropping(nn.Module):
    """A convolution, ``between``, a BatchNorm."""

    def __init__(self, between: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.between = between()
        self.bn = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.bn(self.between(self.conv(x)))))


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


BETWEEN: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "nothing": (nn.Identity, True),
    "dropout": (lambda: nn.Dropout(0.4), True),
    "dropout in place": (lambda: nn.Dropout2d(0.4, inplace=True), True),
    "two dropouts": (lambda: nn.Sequential(nn.Dropout(0.4), nn.Dropout2d(0.3)), True),
    "a branch on training": (Noise, False),
}


@pytest.mark.parametrize(("between", "is_folded"), BETWEEN.values(), ids=BETWEEN.keys())
def test_what_acts_in_training_stays_in_front_of_the_batch_norm(
    between: Callable[[], nn.Module], is_folded: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, files = Dropping(between).train(), Files(tmp_path)
    amct.create_quant_retrain_config(files.config, model, X)
    assert ("bn" in files.document) is not is_folded
    quantized = amct.create_quant_retrain_model(files.config, model, files.record_file, X)
    amct.enable_quantization(quantized)
    torch.manual_seed(1)
    found = quantized(X)
    torch.manual_seed(1)
    assert torch.equal(found, model(X))
    assert torch.equal(quantized.bn.running_var, model.bn.running_var)
    quantized.eval()
    assert torch.equal(quantized(X), model.eval()(X))


def test_dropout_in_front_of_a_batch_norm_acts_when_the_layer_is_quantized(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, files = Dropping(lambda: nn.Dropout(0.9)).train(), Files(tmp_path)
    amct.create_quant_retrain_config(files.config, model, X)
    quantized = amct.create_quant_retrain_model(files.config, model, files.record_file, X)
    for _ in range(3):
        torch.manual_seed(1)
        quantized(X)
        torch.manual_seed(1)
        model(X)
    # 8 bits are 0.4 % of the range; without the dropout the variance is a tenth of this.
    torch.testing.assert_close(quantized.bn.running_var, model.bn.running_var, rtol=0.02, atol=1e-3)
    quantized.eval()(X)
    amct.save_quant_retrain_model(files.config, quantized, files.record_file, str(tmp_path / "out" / "model"), X)
    assert "bn" not in files.record.layers
