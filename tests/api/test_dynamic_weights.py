"""Weights in all spellings: subclasses with their own forward, computed weights, forwards set on instances."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.onnx_io.model_file import load_model
from hotwheels.amct_pytorch.oracle.interpreter import Interpreter
from tests.support import fx_path
from tests.support.dynamic_path import Files, calibrated, quantize, run

BATCH_AXES = {"input": {0: "batch"}, "output": [0]}
NAMES: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"], "dynamic_axes": BATCH_AXES}


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 9, 9, generator=torch.Generator().manual_seed(count))


class SamePadding(nn.Conv2d):
    """As in ports of TensorFlow: the padding is computed from the size of the image."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(x.shape[:-3:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Standardized(nn.Conv2d):
    """Weight standardization with a gain, as in timm's normalizer-free networks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, self.out_channels).reshape(-1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / (spread + 1e-5) * self.gain * 0.3
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class OwnConvForward(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight.abs(), bias)


class Cropped(nn.ConvTranspose2d):
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return 2 * super().forward(input, output_size)[..., :-1, :-1]


class Adapted(nn.Linear):
    """A Linear with a low-rank change of its weight."""

    def __init__(self) -> None:
        super().__init__(3, 4)
        self.a, self.b = nn.Parameter(0.1 * torch.randn(2, 3)), nn.Parameter(0.1 * torch.randn(4, 2))

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight + self.b @ self.a, self.bias)


def with_own_forward() -> nn.Module:
    conv = nn.Conv2d(3, 4, 3)
    original = conv.forward
    conv.forward = lambda x: original(x * 2) + 1
    return conv


def with_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Conv2d(3, 4, 3))


KINDS: dict[str, Callable[[], nn.Module]] = {
    "padding of TensorFlow": lambda: SamePadding(3, 4, 3, stride=2),
    "weight standardization": lambda: Standardized(3, 4, 3, padding=1),
    "another _conv_forward": lambda: OwnConvForward(3, 4, 3, groups=1),
    "transposed": lambda: Cropped(3, 4, 3, stride=2),
    "adapted Linear": lambda: nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), Adapted(), nn.Unflatten(1, (4, 1, 1))
    ),
    "weight_norm": with_weight_norm,
    "parametrized weight_norm": lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
    "spectral_norm": lambda: nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)),
    "parametrized spectral_norm": lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)),
    "pruned": lambda: prune.l1_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.4),
    "forward of an instance": with_own_forward,
}
FOLDED = {name for name in KINDS if name not in ("transposed", "adapted Linear", "forward of an instance")}


def net(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(KINDS[name](), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    for step in range(3):
        model(images(4 + step))
    return model.eval()


@pytest.mark.parametrize("name", KINDS)
def test_weight_is_quantized_and_folded(name: str, tmp_path: Path) -> None:
    model, x, other = net(name), images(4), images(7)
    expected = run(model, x)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    quantized, files = calibrated(model, tmp_path, [(x,)], **NAMES)
    layer = "0.2" if name == "adapted Linear" else "0"
    assert files.record.layers[layer].weight is not None
    assert run(model, x).equal(expected) and all(state[key].equal(one) for key, one in model.state_dict().items())
    assert quantized.state_dict().keys() >= state.keys()
    amct.enable_quantization(quantized)
    assert run(quantized, x).equal(expected)
    amct.enable_quantization(quantized, fake_quant=True)
    assert (run(quantized, x) - expected).square().mean().sqrt() < 0.02 * expected.abs().max()
    files.save(quantized)
    types = [node.op_type for node in load_model(files.deploy_pair[0]).graph]
    assert ("BatchNormalization" in types) == (name not in FOLDED)
    found = torch.from_numpy(fx_path.run_onnx(files.fake_quant, other)[0])
    torch.testing.assert_close(found, run(quantized, other), rtol=1e-4, atol=1e-4)
    amct.enable_quantization(quantized, real_quant=True)
    oracle = Interpreter(*files.deploy_pair).run({"input": other.numpy()}).outputs["output"]
    np.testing.assert_array_equal(run(quantized, other).numpy(), oracle)


def trained(name: str, folder: Path, folder_of_record: str) -> tuple[nn.Module, Files]:
    files = Files(folder)
    model = net(name).train()
    amct.create_quant_retrain_config(files.config, model, images(4), None)
    return amct.create_quant_retrain_model(files.config, model, folder / folder_of_record, images(4)), files


@pytest.mark.parametrize("name", KINDS)
def test_weight_is_trained_through_its_computation_and_restored(name: str, tmp_path: Path) -> None:
    model, files = trained(name, tmp_path, "record.txt")
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for step in range(3):
        loss = model(images(4 + step)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [key for key, one in model.named_parameters() if one.requires_grad and one.grad is None] == []
    model.eval()
    run(model, images(4))
    expected = run(model, images(5))
    torch.save(model.state_dict(), tmp_path / "state.pt")
    prefix = str(tmp_path / "out" / "model")
    amct.save_quant_retrain_model(files.config, model, files.record_file, prefix, images(4), *NAMES.values())
    found = torch.from_numpy(fx_path.run_onnx(files.fake_quant, images(5))[0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    fresh = amct.restore_quant_retrain_model(
        files.config, net(name), tmp_path / "again.txt", images(4), tmp_path / "state.pt"
    )
    assert run(fresh.eval(), images(5)).equal(expected)


def test_padding_computed_from_sizes_is_that_of_the_layer(tmp_path: Path) -> None:
    _, files = calibrated(net("padding of TensorFlow"), tmp_path, [(images(4),)])
    assert [node.op_type for node in load_model(files.onnx).graph] == ["Conv", "Relu", "Conv"]


def test_layer_that_is_off_keeps_its_forward(tmp_path: Path) -> None:
    model, x = net("padding of TensorFlow"), images(4)
    files = Files(tmp_path)
    amct.create_quant_config(files.config, model, x, skip_layers=["3"])
    files.change_layers("0", quant_enable=False)
    with pytest.raises(amct.ConfigError, match="No quant enable layer"):
        quantize(model, files, x)
    assert "forward" not in vars(model[0])


# --- BatchNorms with a forward of their own ---


class NormAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: the normalization is called as a function, an activation follows."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
        state = (self.running_mean, self.running_var, self.weight, self.bias)
        return self.act(self.drop(F.batch_norm(x, *state, self.training, self.momentum, self.eps)))


class NormThenAct(nn.Module):
    """The same of modules."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn, self.act = nn.BatchNorm2d(channels), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x))


def normalized(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), kind(8), nn.Conv2d(8, 8, 3), kind(8), nn.Conv2d(8, 4, 1))
    for step in range(3):
        model(images(4 + step))
    return model.eval()


def calibrated_and_trained(kind: type[nn.Module], folder: Path) -> tuple[list[Tensor], list[str]]:
    """Outputs and statistics of both, and the types of the nodes in the deploy file."""
    quantized, files = calibrated(normalized(kind), folder, [(images(4),)])
    files.save(quantized)
    types = [node.op_type for node in load_model(files.deploy_pair[0]).graph]
    again = Files(folder / "trained")
    model = normalized(kind).train()
    amct.create_quant_retrain_config(again.config, model, images(4), None)
    trained_model = amct.create_quant_retrain_model(again.config, model, again.record_file, images(4))
    optimizer = torch.optim.SGD(trained_model.parameters(), 0.01)
    for step in range(3):
        loss = trained_model(images(5 + step)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    outputs = [run(quantized, images(6)), run(trained_model.eval(), images(6))]
    return [*outputs, *(value for name, value in trained_model.state_dict().items() if "running" in name)], types


def test_batch_norm_with_an_activation_inside_is_that_of_two_modules(tmp_path: Path) -> None:
    expected, types = calibrated_and_trained(NormThenAct, tmp_path / "a")
    found, found_types = calibrated_and_trained(NormAct, tmp_path / "b")
    assert found_types == types == ["Conv", "Relu", "Conv", "Relu", "Conv"]
    assert len(found) == len(expected) == 6
    assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))


def test_batch_norm_of_an_own_forward_is_updated(tmp_path: Path) -> None:
    model, files = normalized(NormAct), Files(tmp_path)
    amct.create_quant_config(files.config, model, images(4))
    files.change(update_bn=True)
    quantized = quantize(model, files, images(4))
    before = quantized[1].running_mean.clone()
    amct.update_bn_status(quantized, True)
    for step in range(3):
        run(quantized, 2 * images(4 + step) + 1)
    amct.update_bn_status(quantized, False)
    run(quantized, images(4))
    assert not torch.equal(quantized[1].running_mean, before)
    files.save(quantized)
    found = torch.from_numpy(fx_path.run_onnx(files.fake_quant, images(4))[0])
    torch.testing.assert_close(found, run(quantized, images(4)), rtol=1e-4, atol=1e-4)


class Frozen(nn.Module):
    """As detectors freeze a BatchNorm: buffers with its names, in arithmetic."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift.reshape(1, -1, 1, 1)


class SwitchedOff(nn.BatchNorm2d):
    """A BatchNorm that is frozen by its mode, without gradients."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features)
        self.load_state_dict(norm.state_dict())
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


def frozen(kind: Callable[[nn.BatchNorm2d], nn.Module]) -> nn.Module:
    model = normalized(NormThenAct)
    for one in model.modules():
        if isinstance(one, NormThenAct):
            one.bn = kind(one.bn)
    return model


def test_frozen_batch_norm_is_folded_and_stays_frozen(tmp_path: Path) -> None:
    runs = {kind: frozen_results(kind, tmp_path / kind.__name__) for kind in (Frozen, SwitchedOff)}
    assert runs[Frozen][1] == runs[SwitchedOff][1] == ["Conv", "Relu", "Conv", "Relu", "Conv"]
    for found, expected in zip(runs[Frozen][0], runs[SwitchedOff][0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def frozen_results(kind: Callable[[nn.BatchNorm2d], nn.Module], folder: Path) -> tuple[list[Tensor], list[str]]:
    """Output of the calibrated model, output and state of the trained one; the types of the deploy file's nodes."""
    quantized, files = calibrated(frozen(kind), folder, [(images(4),)])
    files.save(quantized)
    types = [node.op_type for node in load_model(files.deploy_pair[0]).graph]
    again, model = Files(folder / "trained"), frozen(kind).train()
    before = model.state_dict().keys()
    amct.create_quant_retrain_config(again.config, model, images(4), None)
    trained = amct.create_quant_retrain_model(again.config, model, again.record_file, images(4))
    assert before <= trained.state_dict().keys()
    optimizer = torch.optim.SGD([one for one in trained.parameters() if one.requires_grad], 0.01)
    for step in range(3):
        optimizer.zero_grad()
        trained(images(5 + step)).square().mean().backward()
        optimizer.step()
    state = [value for name, value in trained.state_dict().items() if "running" in name or name == "0.weight"]
    return [run(quantized, images(6)), run(trained.eval(), images(6)), *state], types
