"""The dynamic path from end to end, in stock onnxruntime and against the FX path (spec 3, 9)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.config.files.tolerant_json import read_json
from hotwheels.amct_pytorch.errors import ExportError
from hotwheels.amct_pytorch.onnx_io.model_file import load_model
from hotwheels.amct_pytorch.oracle.interpreter import Interpreter
from hotwheels.amct_pytorch.quantizers.observers.ifmr_observer import IFMRObserver
from tests.support import fx_path
from tests.support.dynamic_nets import Branches, Decides, ManyTensors, Reuses, SmallResNet, images
from tests.support.dynamic_path import Files, calibrated, make_config, quantize, run, same_tensors
from tests.support.log_lines import LogLines
from tests.support.nets import shake_batch_norms

BATCH_AXES = {"input": {0: "batch"}, "output": [0]}


# --- end to end ---


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, calibration batches, the setting of the export and an input with another batch size."""

    model: Callable[[], nn.Module]
    batches: list[tuple[Any, ...]]
    other: tuple[Any, ...]
    setting: dict[str, Any]


def tokens(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(0, 11, (batch, 5), generator=generator), torch.randn(batch, 5, 6, generator=generator)


ONE_INPUT = {"input_names": ["input"], "output_names": ["output"], "dynamic_axes": BATCH_AXES}
CASES = {
    "residual": Case(SmallResNet, images(4, 4), images(3)[0], ONE_INPUT),
    "control flow": Case(Decides, images(2), images(5)[0], ONE_INPUT),
    "reused module": Case(Reuses, images(2), images(5)[0], ONE_INPUT),
    "integers, several inputs": Case(
        ManyTensors, [tokens(4), tokens(4)], tokens(3),
        {"dynamic_axes": {"ids": [0], "states": [0], "output_0": [0], "output_1": [0]}},
    ),
    "branches": Case(
        Branches, images(2), images(3)[0], {"dynamic_axes": {"x": [0], "output_0": [0], "output_1": [0]}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_saved_model_gives_the_outputs_of_the_torch_model(case: Case, tmp_path: Path) -> None:
    quantized, files = calibrated(case.model(), tmp_path, case.batches, **case.setting)
    files.save(quantized)
    expected = run(quantized, *case.other)
    found = fx_path.run_onnx(files.fake_quant, *case.other)
    steps = min((one.scale for layer in files.record.layers.values() for one in layer.activations), default=1.0)
    for left, right in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
        # The sums of a convolution come in another order; next to a tie of a later quantizer that is one step.
        assert fx_path.steps_apart(left, right, steps).max() <= 1


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_deploy_pair_is_complete(case: Case, tmp_path: Path) -> None:
    quantized, files = calibrated(case.model(), tmp_path, case.batches, **case.setting)
    files.save(quantized)
    names = [value.name for value in fx_path.open_onnx(files.fake_quant).get_inputs()]
    feeds = {name: x.numpy() for name, x in zip(names, case.other, strict=True)}
    results = Interpreter(*files.deploy_pair).run(feeds).outputs
    expected = run(quantized, *case.other)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for left, right in zip(results.values(), expected, strict=True):
        # Requantization rounds once more per layer than fake_quant does; so it stays within a few percent.
        assert abs(torch.from_numpy(left) - right).max() <= 0.05 * right.abs().max()


def test_outputs_are_float_until_the_last_batch(tmp_path: Path) -> None:
    model, batches = SmallResNet(), images(2, 2, 2)
    files = make_config(model, tmp_path, batches[0], batch_num=2)
    quantized = quantize(model, files, batches[0])
    assert files.record.layers["conv1"].weight is not None
    for batch in batches[:2]:
        assert all(not layer.activations for layer in files.record.layers.values())
        assert torch.equal(run(quantized, *batch), run(model, *batch))
    assert files.record.layers["conv1"].activations[0].index == 0
    assert not torch.equal(run(quantized, *batches[2]), run(model, *batches[2]))


def test_record_has_shift_bits_of_weighted_layers_only(tmp_path: Path) -> None:
    _, files = calibrated(SmallResNet(), tmp_path, images(2))
    shifts = {name: len(layer.shift_bit) for name, layer in files.record.layers.items()}
    assert shifts == {
        "conv1": 4, "maxpool": 0, "layer1.0.conv1": 4, "layer1.0.conv2": 4, "layer1.0.eltwise_add": 0,
        "layer1.0.relu2": 0, "avgpool": 0, "fc": 1,
    } | {name: 0 for name in shifts if name == "flatten"}  # fmt: skip


def test_layers_carry_their_names_in_the_onnx_file(tmp_path: Path) -> None:
    _, files = calibrated(SmallResNet(), tmp_path, images(2), **ONE_INPUT)
    nodes = {node.name: node.op_type for node in load_model(files.onnx).graph}
    assert nodes["layer1.0.conv1"] == "Conv"
    assert nodes["layer1.0.eltwise_add"] == "Add"
    assert nodes["fc"] == "Gemm"
    assert "BatchNormalization" not in nodes.values()


def test_modified_onnx_computes_the_float_model(tmp_path: Path) -> None:
    model = SmallResNet()
    _, files = calibrated(model, tmp_path, images(2), **ONE_INPUT)
    other = images(3)[0]
    found = torch.from_numpy(fx_path.run_onnx(files.onnx, *other)[0])
    torch.testing.assert_close(found, run(model, *other), rtol=1e-5, atol=1e-5)


def test_save_needs_the_two_files_only(tmp_path: Path) -> None:
    calibrated(SmallResNet(), tmp_path, images(2), **ONE_INPUT)[1].save()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model_deploy_model.onnx", "model_fake_quant_model.onnx", "model_quant_param_record.bin",
        "model_quant_param_record.txt", "model_manifest.json",
    }  # fmt: skip


# --- the model of the caller, and the returned one ---


@pytest.mark.parametrize("update_bn", [False, True])
def test_weights_changed_after_the_calibration_are_not_saved_silently(update_bn: bool, tmp_path: Path) -> None:
    files = make_config(SmallResNet().eval(), tmp_path, images(1)[0], batch_num=1)
    files.change(update_bn=update_bn)
    quantized = quantize(SmallResNet().eval(), files, images(1)[0])
    run(quantized, *images(1)[0])
    files.save(copy.deepcopy(quantized).double())
    files.save(copy.deepcopy(quantized).half())
    quantized.get_buffer("bn1.running_mean").add_(1)
    if update_bn:
        files.save(quantized)
    else:
        with pytest.raises(ExportError, match=r"running_mean' of the model changed .* Call quantize_model again"):
            files.save(quantized)
    with torch.no_grad():
        quantized.get_parameter("fc.weight").mul_(3)
    with pytest.raises(ExportError, match=r"'fc\.weight'"):
        files.save(copy.deepcopy(quantized))
    if not update_bn:
        files.save()


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def test_a_weight_that_is_computed_since_the_calibration_is_not_saved_silently(tmp_path: Path) -> None:
    files = make_config(SmallResNet().eval(), tmp_path, images(1)[0], batch_num=1)
    quantized = quantize(SmallResNet().eval(), files, images(1)[0])
    run(quantized, *images(1)[0])
    nn.utils.parametrize.register_parametrization(quantized.get_submodule("fc"), "weight", Doubled())
    with pytest.raises(ExportError, match=r"'fc\.weight' of the model changed after quantize_model"):
        files.save(quantized)


def test_model_of_the_caller_is_untouched(tmp_path: Path) -> None:
    model = SmallResNet().train()
    before, own = copy.deepcopy(model.state_dict()), {name: dict(one.__dict__) for name, one in model.named_modules()}
    calibrated(model, tmp_path, images(2))
    assert same_tensors(model.state_dict(), before)
    assert model.training and model.relu.inplace
    for name, module in model.named_modules():
        assert module.__dict__.keys() == own[name].keys()
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_model_in_training_mode_is_calibrated_in_eval_mode(tmp_path: Path, log_lines: LogLines) -> None:
    quantized, files = calibrated(SmallResNet().train(), tmp_path, images(4, 4), **ONE_INPUT)
    assert not quantized.training
    assert any("training mode" in line for line in log_lines.warnings)
    files.save(quantized)
    other = images(3)[0]
    found = torch.from_numpy(fx_path.run_onnx(files.fake_quant, *other)[0])
    torch.testing.assert_close(found, run(quantized, *other), rtol=1e-5, atol=1e-5)


def test_returned_model_survives_pickle(tmp_path: Path) -> None:
    quantized, _ = calibrated(SmallResNet(), tmp_path, images(2))
    torch.save(quantized, tmp_path / "model.pth")
    loaded = torch.load(tmp_path / "model.pth", weights_only=False)
    other = images(3)[0]
    assert torch.equal(run(loaded, *other), run(quantized, *other))


def test_children_of_a_sequential_run_in_order_beside_the_layers(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    quantized, files = calibrated(model, tmp_path, images(2), **ONE_INPUT)
    files.save(quantized)
    other = images(3)[0]
    found = torch.from_numpy(fx_path.run_onnx(files.fake_quant, *other)[0])
    torch.testing.assert_close(found, run(quantized, *other), rtol=1e-5, atol=1e-5)


def test_returned_model_can_be_copied_before_and_after_calibration(tmp_path: Path) -> None:
    model, batches = SmallResNet(), images(2, 3)
    quantized = quantize(model, make_config(model, tmp_path, batches[0]), batches[0])
    twin = copy.deepcopy(quantized)
    run(quantized, *batches[0])
    run(twin, *batches[0])
    expected = run(quantized, *batches[1])
    assert torch.equal(run(twin, *batches[1]), expected)
    assert torch.equal(run(copy.deepcopy(quantized), *batches[1]), expected)


def test_state_is_a_superset_of_the_float_model_and_restores(tmp_path: Path) -> None:
    model, batches = SmallResNet(), images(2, 3)
    quantized, files = calibrated(model, tmp_path, batches[:1])
    state = quantized.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    fresh = quantize(SmallResNet(), files, batches[0])
    fresh.load_state_dict(state)
    assert torch.equal(run(fresh, *batches[1]), run(quantized, *batches[1]))


# --- what changes its input in place ---


class ResidualUnit(nn.Module):
    """As in MiDaS: the sum reads what the in-place activation has left in its input."""

    def __init__(self, act: nn.Module, has_conv: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1) if has_conv else nn.AvgPool2d(1)
        channels = 6 if has_conv else 3
        self.act, self.body = act, nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, 4, 1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.last(self.body(self.act(y)) + y)


class ViewedUnit(ResidualUnit):
    """Half of a tensor is changed, and all of it read."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        self.act(y[:, :2])
        return self.last(self.body(y))


IN_PLACE = [nn.ReLU(inplace=True), nn.ReLU6(inplace=True), nn.LeakyReLU(0.1, inplace=True), nn.ELU(inplace=True)]


@pytest.mark.parametrize("kind", [ResidualUnit, ViewedUnit])
@pytest.mark.parametrize("has_conv", [True, False], ids=["behind a convolution", "a layer"])
@pytest.mark.parametrize("act", IN_PLACE, ids=lambda act: type(act).__name__)
def test_module_whose_input_is_read_again_stays_in_place(
    act: nn.Module, has_conv: bool, kind: type[ResidualUnit], tmp_path: Path
) -> None:
    model, batch = kind(act, has_conv), images(3)[0]
    expected = run(model, *batch)
    files = make_config(model, tmp_path, batch)
    quantized = quantize(model, files, batch, **ONE_INPUT)
    assert torch.equal(run(quantized, *batch), expected)
    is_layer = not has_conv or kind is ViewedUnit or act.__class__ is nn.ELU
    assert ("act" in files.record.layers) == is_layer
    files.save(quantized)
    other = images(5)[0]
    found = fx_path.run_onnx(files.fake_quant, *other)[0]
    step = min(one.scale for layer in files.record.layers.values() for one in layer.activations)
    assert fx_path.steps_apart(found, run(quantized, *other), step).max() <= 1
    error = (run(quantized, *batch) - expected).square().mean().sqrt()
    assert error < 0.02 * expected.abs().max()  # 8 bits; 3 dB if the sum reads the old input
    amct.enable_quantization(quantized, real_quant=True)
    oracle = Interpreter(*files.deploy_pair)
    real = oracle.run(dict(zip(oracle.pair.graph.inputs, (other[0].numpy(),), strict=True))).outputs
    assert torch.equal(run(quantized, *other), torch.from_numpy(next(iter(real.values()))))


@pytest.mark.parametrize("act", IN_PLACE, ids=lambda act: type(act).__name__)
def test_layer_that_overwrites_its_input_has_gradients(act: nn.Module, tmp_path: Path) -> None:
    model, (x,) = ResidualUnit(act, has_conv=False), images(3)[0]
    quantized, _ = calibrated(model, tmp_path, [(x,)])
    found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    quantized(found).square().sum().backward()
    model(expected * 1).square().sum().backward()
    cosine = F.cosine_similarity(found.grad.flatten(), expected.grad.flatten(), dim=0)
    assert cosine > 0.99


def test_module_whose_input_is_read_no_more_works_out_of_place(tmp_path: Path) -> None:
    quantized, _ = calibrated(SmallResNet(), tmp_path, images(2))
    assert not quantized.layer1[0].relu2.inplace


# --- what is a layer ---


def test_extension_modules_are_layers_with_a_grid_per_input(tmp_path: Path) -> None:
    _, files = calibrated(ManyTensors(), tmp_path, [tokens(4)])
    assert [one.index for one in files.record.layers["add"].activations] == [0, 1]
    assert [one.offset for one in files.record.layers["matmul"].activations] == [0, 0]  # spec 5.4
    nodes = {node.name: node.op_type for node in load_model(files.onnx).graph}
    assert (nodes["add"], nodes["matmul"]) == ("Add", "MatMul")


class LeNet(nn.Module):
    """One pooling for two tensors of different size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.pool = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 2), nn.MaxPool2d(2)
        self.relu1, self.relu2, self.fc = nn.ReLU(), nn.ReLU(), nn.Linear(8, 5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.conv1(x)))
        x = 3 * self.pool(self.relu2(self.conv2(x)))
        return self.fc(torch.flatten(x, 1))


class Siamese(nn.Module):
    """One convolution with its BatchNorm for two tensors of different range and size; a block of one shared ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(True)
        self.pool, self.head = nn.AdaptiveAvgPool2d(2), nn.Conv2d(3, 4, 1)
        shake_batch_norms(self)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        near = self.relu(self.bn(self.conv(x)))
        far = self.bn(self.conv(7 * x[:, :, ::2]))
        far += 1
        return self.head(self.pool(self.relu(far)) + self.pool(near))


def test_grid_of_a_layer_covers_all_its_uses(tmp_path: Path) -> None:
    model, batches = LeNet(), images(4, 4)
    seen: list[Tensor] = []
    hook = model.pool.register_forward_pre_hook(lambda module, args: seen.append(args[0].flatten()))
    for batch in batches:
        run(model, *batch)
    hook.remove()
    _, files = calibrated(model, tmp_path, batches)
    assert list(files.record.layers) == ["conv1", "pool", "conv2", "fc"]
    observer = IFMRObserver(batch_num=2)
    observer(torch.cat(seen[:2]))
    observer(torch.cat(seen[2:]))
    (grid,) = files.record.layers["pool"].activations
    scale, offset = observer.calculate_qparams()
    assert (grid.scale, grid.offset) == (scale.item(), offset.item())


@pytest.mark.parametrize(("kind", "uses"), [(LeNet, {"pool", "pool:1"}), (Siamese, {"conv", "conv:1", "relu:1"})])
def test_every_node_of_a_layer_is_quantized(kind: type[nn.Module], uses: set[str], tmp_path: Path) -> None:
    quantized, files = calibrated(kind(), tmp_path, images(4), **ONE_INPUT)
    files.save(quantized)
    layers = Interpreter(*files.deploy_pair).pair.layers
    assert uses <= {name for name, layer in layers.items() if layer.grids}
    assert len({layers[name].grids[0] for name in uses if name.startswith("pool")}) <= 1
    node_types = [node.op_type for node in load_model(files.deploy_pair[0]).graph]
    assert "BatchNormalization" not in node_types
    assert node_types.count("Relu") == 2


def test_weight_of_a_layer_stands_once_in_the_files(tmp_path: Path) -> None:
    quantized, files = calibrated(Siamese(), tmp_path, images(4))
    files.save(quantized)
    for path in (files.onnx, files.deploy_pair[0]):
        nodes = {node.name: node for node in load_model(path).graph}
        assert nodes["conv"].inputs[1] is nodes["conv:1"].inputs[1]


def test_layer_with_several_uses_can_be_skipped(tmp_path: Path, log_lines: LogLines) -> None:
    model = Siamese()
    files = make_config(model, tmp_path, images(2)[0], skip_layers=["relu"])
    assert not files.document["relu"]["quant_enable"]
    quantized = quantize(model, files, images(2)[0])
    run(quantized, *images(2)[0])
    assert "relu" not in files.record.layers
    assert not [line for line in log_lines.warnings if "relu" in line]


def test_forward_that_fails_is_no_part_of_the_batch(tmp_path: Path) -> None:
    model, batch = LeNet(), images(4)[0]
    _, expected = calibrated(model, tmp_path / "a", [batch])
    quantized = quantize(model, make_config(model, tmp_path / "b", batch), batch)
    wrong = 100 * torch.ones(2, 3, 9, 40)
    with pytest.raises(RuntimeError):
        run(quantized, wrong)
    run(quantized, *batch)
    assert Files(tmp_path / "b").record.layers["pool"] == expected.record.layers["pool"]


def test_container_in_skip_layers_skips_all_inside(tmp_path: Path, log_lines: LogLines) -> None:
    document = make_config(SmallResNet(), tmp_path, images(2)[0], skip_layers=["layer1", "nobody"]).document
    off = {name for name, one in document.items() if isinstance(one, dict) and not one["quant_enable"]}
    assert off == {name for name in document if name.startswith("layer1.")}
    assert len(log_lines.warnings) == 1
    assert "'nobody' is not in the model" in log_lines.warnings[0]


def test_a_forward_may_return_a_loss(tmp_path: Path) -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.cross_entropy(self.linear(x), torch.arange(6) % 4)

    x = torch.randn(6, 4)
    quantized, files = calibrated(Loss().eval(), tmp_path, [(x,)])
    files.save()
    assert torch.allclose(run(quantized, x), torch.from_numpy(fx_path.run_onnx(files.fake_quant, x)[0]), atol=1e-5)


def test_forward_set_on_an_instance_is_kept(tmp_path: Path) -> None:
    model = Decides()
    original = model.bright.forward
    model.bright.forward = lambda x: original(x)
    quantized, files = calibrated(model, tmp_path, images(2), **ONE_INPUT)
    files.save(quantized)
    assert "bright" in files.record.layers


def test_simple_cfg_replaces_the_arguments(tmp_path: Path) -> None:
    cfg = tmp_path / "quant.cfg"
    cfg.write_text("batch_num : 3\nskip_layers : 'layer1.0.eltwise_add'\nskip_layer_types : 'Relu'\n")
    files = make_config(SmallResNet(), tmp_path, images(2)[0], skip_layers=["fc"], config_definition=cfg)
    assert files.document["batch_num"] == 3
    assert files.document["fc"]["quant_enable"]
    assert not files.document["layer1.0.eltwise_add"]["quant_enable"]


def test_batch_norm_that_is_not_fused_is_a_layer(tmp_path: Path) -> None:
    model = SmallResNet()
    files = make_config(model, tmp_path, images(2)[0])
    assert "bn1" not in files.document
    files.change(skip_fusion_layers=["conv1"], bn1={"quant_enable": True})
    quantized = quantize(model, files, images(2)[0])
    run(quantized, *images(2)[0])
    assert files.record.layers["conv1"].skip_fusion
    assert "bn1" in files.record.layers
    assert "BatchNormalization" in {node.op_type for node in load_model(files.onnx).graph}


# --- both paths ---


def test_both_paths_give_the_same_parameters_and_outputs(tmp_path: Path) -> None:
    model, batches, other = SmallResNet(), images(4, 4), images(3)[0]
    dynamic, files = calibrated(model, tmp_path, batches)
    fx = fx_path.quantize(model, tmp_path, batches, fx_entries(model, tmp_path, batch_num=2))
    expected = {name: layer.record() for name, layer in fx.quantized_layers.items()}
    # The FX path has no shift bits.
    found = {name.replace(".", "_"): one for name, one in files.record.layers.items()}
    assert {name: dataclasses.replace(one, shift_bit=()) for name, one in found.items()} == expected
    assert torch.equal(run(dynamic, *other), fx_path.run_fake(fx, *other))


def fx_entries(model: nn.Module, folder: Path, batch_num: int) -> dict[str, Any]:
    """The default entries of the FX path with another ``batch_num``, which stands in each activation there."""
    document = read_json(fx_path.make_config(model, folder))
    for layer in document.values():
        for one in layer["activation_quant_params"]:
            one["quantizer_args"]["batch_num"] = batch_num
    return document
