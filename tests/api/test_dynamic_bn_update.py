"""4-bit SNQ weights whose BatchNorms are updated before the calibration (spec 3, 6.7, 9.8)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.layers.layer_container import layers_by_name
from hotwheels.amct_pytorch.core.batch_norm import channel_factor
from hotwheels.amct_pytorch.nn.quantized_layer import QuantizedLayer
from hotwheels.amct_pytorch.oracle.interpreter import Interpreter
from hotwheels.amct_pytorch.record.text_proto import read_record
from tests.support import fx_path
from tests.support.dynamic_nets import SmallResNet, images
from tests.support.dynamic_path import Files, make_config, quantize, run, same_tensors
from tests.support.nets import shake_batch_norms

CFG = """
batch_num : 2
update_bn : true
bn_update_config : { bn_momentum : 0.5 }
common_config : { snq_quantize : { num_bits : 4 } ifmr_quantize : { num_bits : 8 } }
override_layer_configs : { layer_name : 'layer1.0.conv2' calibration_config : { arq_quantize : { num_bits : 8 } } }
"""
BATCHES = images(8, 8, 8)
SETTING = {"input_names": ["input"], "output_names": ["output"], "dynamic_axes": {"input": [0], "output": [0]}}


def negative_gamma(model: nn.Module) -> nn.Module:
    """A channel of each BatchNorm whose folded weight is that of the convolution negated, and one that is constant."""
    for norm in (one for one in model.modules() if isinstance(one, nn.BatchNorm2d)):
        with torch.no_grad():
            norm.weight[1] = -norm.weight[1]
            norm.weight[2] = 0.0
    return model


class Upsampling(nn.Module):
    """A convolution and transposed ones, with and without groups, each with its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.up, self.up_bn = nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.wide, self.wide_bn = nn.ConvTranspose2d(6, 4, 2, bias=False), nn.BatchNorm2d(4)
        self.pool = nn.AvgPool2d(2)
        shake_batch_norms(self)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        x = self.relu(self.up_bn(self.up(self.bn(self.conv(image)))))
        return self.pool(self.wide_bn(self.wide(x)))


def updated(
    folder: Path, iterations: int = 3, model: nn.Module | None = None, cfg: str = CFG
) -> tuple[nn.Module, nn.Module, Files]:
    """Returns the float model, the one after update and calibration, and its files."""
    (folder / "quant.cfg").write_text(cfg)
    model = model or negative_gamma(SmallResNet())
    files = make_config(model, folder, BATCHES[0], config_defination=folder / "quant.cfg")
    quantized = quantize(model, files, BATCHES[0], **SETTING)
    amct.update_bn_status(quantized, True)
    for index in range(iterations):
        run(quantized, *BATCHES[index % len(BATCHES)])
    amct.update_bn_status(quantized, False)
    for batch in BATCHES[:2]:
        run(quantized, *batch)
    return model, quantized, files


def norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: one for name, one in model.named_modules() if isinstance(one, nn.BatchNorm2d)}


def test_statistics_follow_the_quantized_weights(tmp_path: Path) -> None:
    model, quantized, _ = updated(tmp_path)
    after = norms(quantized)
    for name, norm in norms(model).items():
        assert not torch.equal(norm.running_mean, after[name].running_mean)
        assert after[name].momentum == 0.5
        assert torch.equal(norm.weight, after[name].weight)
    assert same_tensors(model.state_dict(), negative_gamma_again().state_dict())


def negative_gamma_again() -> nn.Module:
    torch.manual_seed(0)
    return negative_gamma(SmallResNet())


def test_nothing_is_calibrated_while_batch_norms_learn(tmp_path: Path) -> None:
    _, quantized, files = updated(tmp_path, iterations=0)
    assert files.record.layers["conv1"].activations
    amct.update_bn_status(quantized, True)
    assert all(one.training and one.weight.requires_grad for one in norms(quantized).values())
    amct.update_bn_status(quantized, False)
    assert not any(one.training or one.weight.requires_grad for one in norms(quantized).values())


def test_bn_momentum_weighs_the_batch_of_the_quantized_convolution(tmp_path: Path) -> None:
    model, quantized, _ = updated(tmp_path, iterations=1)
    norm, before = norms(quantized)["bn1"], norms(model)["bn1"]
    weight, conv = layers_by_name(quantized.amct_layers)["conv1"].weight, model.conv1
    # What is deployed: grid points of the negated weight where the factor is negative, nothing where it is 0.
    sign = norm.weight.sign().reshape(-1, 1, 1, 1)
    with torch.no_grad():
        points = weight.fake_quantize(conv.weight * sign, weight.params(conv.weight)) * sign
        batch_mean = nn.functional.conv2d(BATCHES[0][0], points, conv.bias, padding=1).mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, 0.5 * before.running_mean + 0.5 * batch_mean)


@pytest.mark.parametrize("channel_wise", [True, False], ids=["channels", "tensor"])
@pytest.mark.parametrize("build", [SmallResNet, Upsampling], ids=lambda build: build.__name__)
def test_saved_model_computes_what_the_torch_model_does(
    tmp_path: Path, build: Callable[[], nn.Module], channel_wise: bool
) -> None:
    """Also in channels with negative factor, whose weights are assigned anew, and in constant ones (spec 6.7)."""
    cfg = CFG.replace("num_bits : 4", f"num_bits : 4 channel_wise : {str(channel_wise).lower()}")
    _, quantized, files = updated(tmp_path, model=negative_gamma(build()), cfg=cfg)
    files.save(quantized)
    (batch,) = images(4)[0]
    expected, found = layer_inputs(quantized, batch), onnx_layer_inputs(files.fake_quant, batch)
    for name, layer in layers_by_name(quantized.amct_layers).items():
        steps = fx_path.steps_apart(found[name], expected[name], float(layer.activation[0].params().scale))
        # Both sums are float32 in another order, so a value next to a tie may take the other step.
        assert steps.max() <= 1.01, name
        assert (steps > 0.5).mean() <= 0.002, name


class LooseNorms(nn.Module):
    """BatchNorms without a convolution in front: at the beginning, called twice, without affine values, of one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.bare = nn.BatchNorm2d(4, affine=False)
        self.pool, self.fc, self.last = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5), nn.BatchNorm1d(5)
        self.unused = nn.BatchNorm2d(5)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        x = self.bn(self.conv(self.twice(self.twice(self.first(image)))))
        # behind a Linear the last one would be folded into it
        return self.last(torch.relu(self.fc(torch.flatten(self.pool(self.bare(x)), 1))))


@pytest.mark.parametrize("setting", ["", "do_fusion : false", "skip_fusion_layers : 'conv'"])
def test_batch_norms_which_nothing_takes_up_are_saved_with_their_new_statistics(
    tmp_path: Path, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    # The statistics of the initial networks are equal, so their nodes share the initializers.
    _, quantized, files = updated(tmp_path, model=LooseNorms(), cfg=f"{CFG}{setting}")
    files.save(quantized)
    (batch,) = images(4)[0]
    found, expected = fx_path.run_onnx(files.fake_quant, batch)[0], run(quantized, batch)
    # A value next to a tie may take the other step; the statistics at first are wrong by all of the output.
    assert fx_path.steps_apart(found, expected, float(expected.abs().max())).max() <= 0.02
    assert not torch.equal(quantized.first.running_mean, torch.zeros(3))
    assert not torch.equal(quantized.last.running_mean, torch.zeros(5))
    assert "keep their statistics: unused." in caplog.text
    assert not quantized.unused.training
    assert torch.equal(quantized.unused.running_mean, torch.zeros(5))


def layer_inputs(quantized: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The fake-quantized first input of every layer of a calibrated model."""
    found: dict[str, Tensor] = {}

    def watch(layer: QuantizedLayer, args: tuple[Tensor, ...]) -> None:
        found[layer.name] = layer.activation[0].fake_quantize(args[0]).detach()

    hooks = [layer.register_forward_pre_hook(watch) for layer in layers_by_name(quantized.amct_layers).values()]
    run(quantized, x)
    for hook in hooks:
        hook.remove()
    return found


def onnx_layer_inputs(file: Path, x: Tensor) -> dict[str, np.ndarray]:
    """The first input of every node, by its name, in onnxruntime; of those that compute it."""
    model = onnx.load(file)
    made = {value for node in model.graph.node for value in node.output}
    read = {node.name: node.input[0] for node in model.graph.node if node.input[0] in made}
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(read.values()))
    watched = file.with_name("watched.onnx")
    onnx.save(model, watched)
    values = dict(zip(dict.fromkeys(read.values()), fx_path.run_onnx(watched, x), strict=True))
    return {node: values[name] for node, name in read.items()}


def test_saved_model_gives_the_outputs_of_the_torch_model(tmp_path: Path) -> None:
    _, quantized, files = updated(tmp_path)
    found, expected = saved_outputs(quantized, files)
    step = min(one.scale for layer in files.record.layers.values() for one in layer.activations)
    assert fx_path.steps_apart(found, expected, step).max() <= 1


def saved_outputs(quantized: nn.Module, files: Files) -> tuple[Tensor, Tensor]:
    """The outputs of the fake_quant file and of the model; those of the deploy pair are checked to be close."""
    files.save(quantized)
    other = images(3)[0]
    expected = run(quantized, *other)
    integers = Interpreter(*files.deploy_pair).run({"input": other[0].numpy()}).outputs["output"]
    assert (torch.from_numpy(integers) - expected).abs().max() <= 0.05 * expected.abs().max()
    return torch.from_numpy(fx_path.run_onnx(files.fake_quant, *other)[0]), expected


def test_updated_record_has_the_folded_scales(tmp_path: Path) -> None:
    _, quantized, files = updated(tmp_path)
    calibrated_text = files.record_file.read_text()
    files.save(quantized)
    assert files.record_file.read_text() == calibrated_text
    update = read_record(tmp_path / "record_update.txt").layers["conv1"].weight
    weight, norm = files.record.layers["conv1"].weight, norms(quantized)["bn1"]
    assert weight is not None and update is not None and update.codebook == weight.codebook
    factor = channel_factor(norm.running_var, norm.weight, norm.eps).detach().abs()
    expected = torch.tensor(weight.scale) * factor
    live = factor > 0
    torch.testing.assert_close(torch.tensor(update.scale)[live], expected[live])


def test_save_needs_the_model(tmp_path: Path) -> None:
    _, _, files = updated(tmp_path)
    with pytest.raises(TypeError, match=r"calibration_torch_model.*update_bn"):
        files.save()
    assert not (tmp_path / "out").exists()


def test_without_update_bn_only_the_flag_changes(tmp_path: Path) -> None:
    model, batch = SmallResNet(), BATCHES[0]
    files = make_config(model, tmp_path, batch)
    quantized = quantize(model, files, batch)
    amct.update_bn_status(quantized)
    assert all(one.training for one in norms(quantized).values())
    amct.update_bn_status(quantized, False)
    assert torch.equal(run(quantized, *batch), run(model, *batch))
    files.save(quantized)
    assert not (tmp_path / "record_update.txt").exists()


def test_gradients_reach_the_affine_parameters(tmp_path: Path) -> None:
    (tmp_path / "quant.cfg").write_text(CFG)
    model = SmallResNet()
    files = make_config(model, tmp_path, BATCHES[0], config_defination=tmp_path / "quant.cfg")
    quantized = quantize(model, files, BATCHES[0])
    amct.update_bn_status(quantized, True)
    loss: Tensor = quantized(*BATCHES[0]).square().sum()
    loss.backward()
    assert all(one.weight.grad is not None and one.weight.grad.abs().sum() > 0 for one in norms(quantized).values())
