"""Forward hooks and pre-hooks act in every mode and in every file (spec 3, 8.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
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
