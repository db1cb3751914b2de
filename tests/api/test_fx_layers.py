"""Single layers on the FX path: folding, sharing, weights, bit widths, ranks (spec 4, 6, 8)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from hotwheels.amct_pytorch.config.files.tolerant_json import read_json
from hotwheels.amct_pytorch.record.text_proto import read_record
from tests.support.fx_path import make_config, quantize, run_fake, run_float, run_onnx, run_real, steps_apart
from tests.support.log_lines import LogLines
from tests.support.nets import Residual, Tokens, shake_batch_norms

_X = {"x": {0: "batch"}}


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 4, 6, 6)


def net_of(forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> nn.Module:
    """A model of the given modules whose forward is a function of itself and ``x``."""

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return forward(self, x)

    net = Net()
    for name, module in modules.items():
        net.add_module(name, module)
    return net


def save(quantized: QuantGraphModule, folder: Path, x: Tensor) -> Path:
    amct.save_quant_model_fx(quantized, folder / "out", x[:1], {"dynamic_axes": _X})
    return folder / "out_fake_quant_model.onnx"


def assert_runtime_agrees(quantized: QuantGraphModule, folder: Path, x: Tensor) -> None:
    """Real values within a float rounding: no grid lies between the last layer and the output."""
    path = save(quantized, folder, x)
    fake = run_fake(quantized, x)
    apart = np.abs(run_onnx(path, x)[0] - fake.numpy())
    share = float(np.mean(apart <= 1e-4 * float(fake.abs().max())))
    print(f"onnxruntime equal on {share:.2%}")
    assert share >= 0.99


# --- BatchNorm ---

_FOLDED = {
    "conv": lambda: (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)),
    "conv without bias": lambda: (nn.Conv2d(4, 6, 3, bias=False, groups=2), nn.BatchNorm2d(6)),
    "conv, SyncBatchNorm": lambda: (nn.Conv2d(4, 6, 3), nn.SyncBatchNorm(6)),
    "transposed": lambda: (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), nn.BatchNorm2d(6)),
    "transposed in groups": lambda: (nn.ConvTranspose2d(4, 6, 3, 2, groups=2, bias=False), nn.BatchNorm2d(6)),
    "transposed, SyncBatchNorm": lambda: (nn.ConvTranspose2d(4, 6, 2), nn.SyncBatchNorm(6)),
}


@pytest.mark.parametrize("name", _FOLDED)
def test_batch_norm_is_folded(name: str, tmp_path: Path) -> None:
    conv, norm = _FOLDED[name]()
    model = net_of(lambda net, x: F.relu(net.norm(net.conv(x))), conv=conv, norm=norm).eval()
    shake_batch_norms(model)
    quantized = quantize(model, tmp_path, [(images(),)])
    assert set(read_json(tmp_path / "config.json")) == {"conv"}
    x = images()
    step = float(quantized.quantized_layers["conv"].activation[0].params().scale)
    assert torch.equal(run_float(quantized, x), model(x))
    assert steps_apart(run_fake(quantized, x), model(x), step).max() < 4
    assert steps_apart(run_real(quantized, x), run_fake(quantized, x), step).max() < 1e-3
    assert_runtime_agrees(quantized, tmp_path, x)
    deploy = onnx.load(tmp_path / "out_deploy_model.onnx")
    assert [node.op_type for node in deploy.graph.node] == ["ConvTranspose" if "trans" in name else "Conv", "Relu"]
    assert np.allclose(run_onnx(tmp_path / "out_float_model.onnx", x)[0], model(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in _FOLDED if "Sync" not in name])
def test_training_uses_the_statistics_of_the_batch(name: str, tmp_path: Path) -> None:
    conv, norm = _FOLDED[name]()
    model = net_of(lambda net, x: net.norm(net.conv(x)), conv=conv, norm=norm).train()
    shake_batch_norms(model)
    quantized = quantize(model, tmp_path, [(images(),)])
    quantized.load_state_dict(quantized.state_dict() | model.state_dict())  # calibration has moved the statistics
    amct.enable_quantization(quantized, fake_quant=True)
    x = images(16)
    assert float((quantized(x) - model(x)).detach().abs().mean()) < 0.03
    for name, value in model.norm.state_dict().items():
        assert torch.allclose(quantized.norm.state_dict()[name].double(), value.double(), atol=0.05), name


def test_what_cannot_be_folded_is_a_layer(tmp_path: Path) -> None:
    cases = {
        "two consumers": net_of(
            lambda net, x: net.norm(y := net.conv(x)) + y, conv=nn.Conv2d(4, 4, 1), norm=nn.BatchNorm2d(4)
        ),
        "two calls": net_of(
            lambda net, x: net.norm(net.conv(net.conv(x))), conv=nn.Conv2d(4, 4, 1), norm=nn.BatchNorm2d(4)
        ),
    }  # fmt: skip
    for name, model in cases.items():
        quantized = quantize(model.eval(), tmp_path, [(images(),)])
        assert "norm" in quantized.quantized_layers, name
        x = images()
        assert torch.equal(run_float(quantized, x), model(x)), name
        assert_runtime_agrees(quantized, tmp_path, x)


def test_batch_norm_of_an_unquantized_convolution_is_folded_in_the_files(tmp_path: Path) -> None:
    model, x = Residual().eval(), torch.randn(4, 3, 6, 6)
    quantized = quantize(model, tmp_path, [(x,)], {"stem_0": {"quant_enable": False}})
    amct.save_quant_model_fx(quantized, tmp_path / "out", x[:1], {"dynamic_axes": {"image": [0]}})
    for name in ("deploy", "fake_quant", "float"):
        nodes = onnx.load(tmp_path / f"out_{name}_model.onnx").graph.node
        assert "BatchNormalization" not in {node.op_type for node in nodes}
    assert np.allclose(run_onnx(tmp_path / "out_float_model.onnx", x)[0], model(x).detach().numpy(), atol=1e-5)
    assert np.allclose(run_onnx(tmp_path / "out_fake_quant_model.onnx", x)[0], run_fake(quantized, x), atol=1e-4)


# --- what several layers share ---


@pytest.mark.parametrize("shared", [nn.Linear(6, 6), nn.Conv2d(4, 4, 3, padding=1)], ids=["linear", "conv"])
def test_reused_module_is_a_layer_at_each_call(shared: nn.Module, tmp_path: Path) -> None:
    model = net_of(lambda net, x: net.op(torch.sigmoid(net.op(x))) + x, op=copy.deepcopy(shared)).eval()
    quantized = quantize(model, tmp_path, [(images(),)])
    layers = quantized.quantized_layers
    assert {"op", "op_1"} <= set(layers)
    assert layers["op"].weight is layers["op_1"].weight
    assert layers["op"].activation[0] is not layers["op_1"].activation[0]
    x = images()
    assert torch.equal(run_float(quantized, x), model(x))
    assert_runtime_agrees(quantized, tmp_path, x)
    real, fake = run_real(quantized, x), run_fake(quantized, x)
    assert steps_apart(real, fake, float(layers["op_1"].activation[0].params().scale)).max() < 3


def test_reused_module_with_two_weight_settings(tmp_path: Path) -> None:
    model = net_of(lambda net, x: net.op(net.op(x)), op=nn.Conv2d(4, 4, 1)).eval()
    four_bits = {"weight_quant_params": {"quantizer": "ArqWeightFakeQuantize", "quantizer_args": {"num_bits": 4}}}
    quantized = quantize(model, tmp_path, [(images(),)], {"op_1": four_bits})
    layers = quantized.quantized_layers
    assert layers["op"].weight is not layers["op_1"].weight
    assert_runtime_agrees(quantized, tmp_path, images())


def _siblings() -> nn.Module:
    return net_of(
        lambda net, x: net.a(y := F.silu(x)) * net.b(y) + y, a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 3, padding=1)
    )


def test_siblings_share_one_quantizer_through_training(tmp_path: Path) -> None:
    quantized = quantize(_siblings().train(), tmp_path, [(images(),)])
    layers = quantized.quantized_layers
    shared = layers["a"].activation[0]
    assert layers["b"].activation[0] is shared
    assert layers["add"].activation[1] is shared
    amct.enable_quantization(quantized, fake_quant=True)
    optimizer = torch.optim.SGD(quantized.parameters(), 0.1)
    before = shared.params().scale.clone()
    for _ in range(3):
        optimizer.zero_grad()
        quantized(images()).square().mean().backward()
        optimizer.step()
    assert not torch.equal(shared.params().scale, before)
    amct.save_quant_model_fx(quantized, tmp_path / "out", images(1))
    record = read_record(tmp_path / "out_scale_offset_record.txt").layers
    grids = [record[name].activations[index] for name, index in (("a", 0), ("b", 0), ("add", 1))]
    assert len({(grid.scale, grid.offset, grid.num_bits) for grid in grids}) == 1
    twin = copy.deepcopy(quantized).quantized_layers
    assert twin["a"].activation[0] is twin["b"].activation[0]
    assert twin["a"].activation[0] is not shared


def test_siblings_of_different_settings_are_warned_of(tmp_path: Path, log_lines: LogLines) -> None:
    twelve = {"activation_quant_params": [{"quantizer": "UlqFakeQuantize", "quantizer_args": {"num_bits": 12}}]}
    quantized = quantize(_siblings().eval(), tmp_path, [(images(),)], {"b": twelve})
    text = "Outputs a(onnx name: a) and b(onnx name: b) of layer silu(onnx name: silu) should have consistent num_bits"
    assert any(line.startswith(text + "\nRepair of 'b'") for line in log_lines.warnings)
    assert quantized.quantized_layers["a"].activation[0] is not quantized.quantized_layers["b"].activation[0]
    assert_runtime_agrees(quantized, tmp_path, images())


def test_activation_behind_a_convolution_belongs_to_it(tmp_path: Path) -> None:
    quantized = quantize(Residual().eval(), tmp_path, [(torch.randn(2, 3, 6, 6),)])
    assert list(quantized.quantized_layers) == ["stem_0", "conv1", "add", "relu", "pool", "flatten", "head"]


# --- widths and weights ---


@pytest.mark.parametrize("num_bits", [4, 8, 9, 12, 15, 16])
def test_widths_of_data(num_bits: int, tmp_path: Path) -> None:
    model = net_of(lambda net, x: net.op(x) + x, op=nn.Conv2d(4, 4, 1)).eval()
    wide = {"activation_quant_params": [{"quantizer": "UlqFakeQuantize", "quantizer_args": {"num_bits": num_bits}}]}
    quantized = quantize(model, tmp_path, [(images(),)], {"op": wide})
    x = 1.5 * images()  # beyond the calibrated range, where the grid clips
    steps = torch.unique(x_grid := quantized.quantized_layers["op"].activation[0].fake_quantize(x))
    assert len(steps) <= 2**num_bits
    assert not torch.equal(x_grid, x)
    assert_runtime_agrees(quantized, tmp_path, x)
    assert np.allclose(run_real(quantized, x), run_fake(quantized, x), atol=1e-4)
    opset = onnx.load(tmp_path / "out_fake_quant_model.onnx").opset_import[0].version
    assert opset == (13 if num_bits == 8 else 21)
    text = (tmp_path / "out_quant_param_record.txt").read_text()
    assert f"data_type: {'S4' if num_bits == 4 else 'S8' if num_bits == 8 else 'S16'}" in text


_WEIGHTS: dict[str, dict[str, Any]] = {
    "arq 4 bits": {"quantizer": "ArqWeightFakeQuantize", "quantizer_args": {"num_bits": 4}},
    "arq per tensor": {"quantizer": "ArqWeightFakeQuantize", "quantizer_args": {"channel_wise": False}},
    "luq": {"quantizer": "LuqWeightFakeQuantize", "quantizer_args": {"num_bits": 8}},
    "lnq": {"quantizer": "LnqFakeQuantize", "quantizer_args": {"num_bits": 4}},
    "fixed": {"quantizer": "FixedFakeQuantize", "quantizer_args": {"scale": 0.01, "num_bits": 8}},
    "torch": {
        "quantizer": "torch.quantization.FakeQuantize",
        "quantizer_args": {
            "observer": "torch.quantization.MinMaxObserver", "dtype": "torch.qint8", "quant_min": -128,
            "quant_max": 127, "qscheme": "torch.per_tensor_symmetric",
        },
    },
}  # fmt: skip
_OPERATIONS = {
    "conv": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "groups": lambda: nn.Conv2d(4, 8, 3, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 2, groups=2),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 5)),
}


@pytest.mark.parametrize("operation", _OPERATIONS)
@pytest.mark.parametrize("algorithm", _WEIGHTS)
def test_weight_algorithms(algorithm: str, operation: str, tmp_path: Path) -> None:
    model = net_of(lambda net, x: net.op(x), op=_OPERATIONS[operation]()).eval()
    layer = "op_1" if operation == "linear" else "op"
    quantized = quantize(model, tmp_path, [(images(),)], {layer: {"weight_quant_params": _WEIGHTS[algorithm]}})
    x = images()
    assert np.allclose(run_real(quantized, x), run_fake(quantized, x), atol=1e-4)
    assert float((run_fake(quantized, x) - model(x)).abs().max()) < 0.5
    assert_runtime_agrees(quantized, tmp_path, x)
    record = read_record(tmp_path / "out_scale_offset_record.txt").layers[layer].weight
    assert record is not None
    assert len(record.codebook) == (16 if algorithm == "lnq" else 0)


def test_torch_quantizer_on_data(tmp_path: Path) -> None:
    args = {
        "observer": "torch.quantization.MovingAverageMinMaxObserver", "dtype": "torch.qint8", "quant_min": -128,
        "quant_max": 127,
    }  # fmt: skip
    data = {"activation_quant_params": [{"quantizer": "torch.quantization.FakeQuantize", "quantizer_args": args}]}
    model = net_of(lambda net, x: net.op(x), op=nn.Conv2d(4, 6, 3)).eval()
    quantized = quantize(model, tmp_path, [(images(),), (images(),)], {"op": data})
    assert_runtime_agrees(quantized, tmp_path, x := images())
    torch.save(quantized.state_dict(), tmp_path / "model.pt")
    restored = amct.restore_quant_model_fx(tmp_path / "config.json", model, tmp_path / "model.pt")
    for run in (run_fake, run_real):
        assert torch.equal(run(restored, x), run(quantized, x))


@pytest.mark.parametrize("algorithm", ["lnq", "luq", "torch"])
def test_trained_weights_are_restored(algorithm: str, tmp_path: Path) -> None:
    model = net_of(lambda net, x: net.op(x), op=nn.Conv2d(4, 6, 3)).train()
    quantized = quantize(model, tmp_path, [(images(),)], {"op": {"weight_quant_params": _WEIGHTS[algorithm]}})
    amct.enable_quantization(quantized, fake_quant=True)
    optimizer = torch.optim.SGD(quantized.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        quantized(images()).square().mean().backward()
        optimizer.step()
    torch.save(quantized.state_dict(), tmp_path / "model.pt")
    restored = amct.restore_quant_model_fx(tmp_path / "config.json", model, tmp_path / "model.pt")
    x = images()
    for run in (run_fake, run_real):
        assert torch.equal(run(restored.eval(), x), run(quantized.eval(), x))


def test_fixed_grids_need_no_calibration(tmp_path: Path) -> None:
    fixed = {
        "activation_quant_params": [
            {"quantizer": "FixedFakeQuantize", "quantizer_args": {"scale": 0.05, "zero_point": -3}}
        ],
        "weight_quant_params": _WEIGHTS["fixed"],
    }
    model = net_of(lambda net, x: net.op(x), op=nn.Conv2d(4, 6, 3)).eval()
    quantized = amct.create_quant_model_fx(make_config(model, tmp_path, {"op": fixed}), model)
    run_fake(quantized, x := images())
    assert_runtime_agrees(quantized, tmp_path, x)
    assert read_record(tmp_path / "out_scale_offset_record.txt").layers["op"].activations[0].offset == -3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_model_of_another_float_type(dtype: torch.dtype, tmp_path: Path) -> None:
    model = net_of(lambda net, x: net.op(torch.sigmoid(net.conv(x))), op=nn.Linear(6, 5), conv=nn.Conv2d(4, 4, 3, 1, 1))
    x = images().to(dtype)
    quantized = quantize(model.eval().to(dtype), tmp_path, [(x,)])
    real, fake = run_real(quantized, x), run_fake(quantized, x)
    assert (real.dtype, fake.dtype) == (torch.float32, torch.float32)  # a copy in float32 is quantized
    assert torch.allclose(real, fake, atol=1e-4)


_CONVOLUTIONS = {
    "same": lambda: nn.Conv2d(4, 4, 3, padding="same", dilation=2),
    "same, asymmetric": lambda: nn.Conv2d(4, 4, (2, 4), padding="same"),
    "valid": lambda: nn.Conv2d(4, 4, 3, padding="valid", stride=2),
    "circular": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
}


@pytest.mark.parametrize("name", _CONVOLUTIONS)
def test_paddings(name: str, tmp_path: Path) -> None:
    quantized = quantize(net_of(lambda net, x: net.op(x), op=_CONVOLUTIONS[name]()).eval(), tmp_path, [(images(),)])
    x = images()
    assert np.allclose(run_real(quantized, x), run_fake(quantized, x), atol=1e-5)
    assert_runtime_agrees(quantized, tmp_path, x)


def test_output_size_of_a_transposed_convolution(tmp_path: Path) -> None:
    model = net_of(lambda net, x: net.op(x, output_size=[13, 14]), op=nn.ConvTranspose2d(4, 4, 3, 2)).eval()
    quantized = quantize(model, tmp_path, [(images(),)])
    x = images()
    assert run_fake(quantized, x).shape == (4, 4, 13, 14)
    assert np.allclose(run_real(quantized, x), run_fake(quantized, x), atol=1e-5)
    assert_runtime_agrees(quantized, tmp_path, x)


def test_change_through_an_unknown_view_is_refused_with_its_line(tmp_path: Path) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.op(x)
        y.as_strided((1, 4), (1, 1)).mul_(2.0)
        return y + x

    model = net_of(forward, op=nn.Conv2d(4, 4, 1)).eval()
    with pytest.raises(amct.UnsupportedModelError, match=r"mul_\(2\.0\)"):
        quantize(model, tmp_path, [(images(),)])


# --- Linear on more than two dimensions ---


def test_linear_of_higher_rank_is_symmetric_and_exported_as_matmul_and_add(tmp_path: Path, log_lines: LogLines) -> None:
    model = net_of(lambda net, x: net.op(torch.sigmoid(x)), op=nn.Linear(6, 5)).eval()
    quantized = quantize(model, tmp_path, [(images(),), (images(),)])
    warnings = [one for one in log_lines.warnings if "MatMul + Add" in one]
    assert len(warnings) == 1
    assert "'op'" in warnings[0]
    assert int(quantized.quantized_layers["op"].activation[0].params().offset) == 0
    x = images()
    assert_runtime_agrees(quantized, tmp_path, x)
    assert np.allclose(run_real(quantized, x), run_fake(quantized, x), atol=1e-5)
    nodes = {node.name: node.op_type for node in onnx.load(tmp_path / "out_deploy_model.onnx").graph.node}
    assert nodes["op"] == "MatMul"
    assert [name for name, kind in nodes.items() if kind == "Add"] == ["op/Add"]


def test_asymmetric_fixed_grid_of_such_a_linear_is_refused(tmp_path: Path) -> None:
    fixed = {"quantizer": "FixedFakeQuantize", "quantizer_args": {"scale": 0.05, "zero_point": 3}}
    model = net_of(lambda net, x: net.op(x), op=nn.Linear(6, 5)).eval()
    quantized = amct.create_quant_model_fx(
        make_config(model, tmp_path, {"op": {"activation_quant_params": [fixed]}}), model
    )
    with pytest.raises(amct.ConfigError, match="Layer 'op' needs a symmetric activation grid"):
        run_fake(quantized, images())


def test_restored_asymmetric_grid_of_such_a_linear_is_refused(tmp_path: Path) -> None:
    model = net_of(lambda net, x: net.op(x), op=nn.Linear(6, 5)).eval()
    quantized = quantize(model, tmp_path, [(torch.rand(4, 6),)])
    torch.save(quantized.state_dict(), tmp_path / "model.pt")
    restored = amct.restore_quant_model_fx(tmp_path / "config.json", model, tmp_path / "model.pt")
    run_fake(restored, torch.rand(2, 6))
    with pytest.raises(amct.ConfigError, match="Layer 'op' needs a symmetric activation grid"):
        run_fake(restored, images())


# --- matmul ---


def test_matmul_is_corrected(tmp_path: Path, log_lines: LogLines) -> None:
    model = net_of(lambda net, x: torch.sigmoid(x) @ x.transpose(-1, -2)).eval()
    asymmetric = {"quantizer": "UlqFakeQuantize", "quantizer_args": {"num_bits": 12}}
    quantized = quantize(model, tmp_path, [(images(),)], {"matmul": {"activation_quant_params": asymmetric}})
    first, second = (one.params() for one in quantized.quantized_layers["matmul"].activation)
    assert (first.num_bits, second.num_bits) == (12, 8)
    assert (int(first.offset), int(second.offset)) == (0, 0)
    assert any("num_bits of the second matmul input is 12" in one for one in log_lines.warnings)
    assert any("with_offset false is used" in one for one in log_lines.warnings)
    assert_runtime_agrees(quantized, tmp_path, images())


def test_matmul_with_a_parameter_is_a_linear_layer(tmp_path: Path) -> None:
    model = net_of(lambda net, x: net.conv(x) @ net.table.weight, conv=nn.Conv2d(4, 4, 1), table=nn.Linear(6, 6))
    quantized = quantize(model.eval(), tmp_path, [(images(),)])
    assert list(quantized.quantized_layers) == ["conv", "matmul"]
    assert quantized.quantized_layers["matmul"].weighted is not None
    assert_runtime_agrees(quantized, tmp_path, images())


def test_bits_that_the_hardware_does_not_pair_are_warned_of(tmp_path: Path, log_lines: LogLines) -> None:
    model = net_of(lambda net, x: net.op(x), op=nn.Conv2d(4, 4, 1)).eval()
    wide = {"quantizer": "UlqFakeQuantize", "quantizer_args": {"num_bits": 12}}
    quantize(
        model, tmp_path, [(images(),)],
        {"op": {"activation_quant_params": [wide], "weight_quant_params": _WEIGHTS["arq 4 bits"]}},
    )  # fmt: skip
    assert any("activations of 12 bits need weights of 8 bits, found 4" in one for one in log_lines.warnings)


def test_tokens_in_the_runtime(tmp_path: Path) -> None:
    batch = torch.randint(0, 9, (2, 4)), torch.ones(2, 4), torch.randn(2, 4, 6)
    quantized = quantize(Tokens().eval(), tmp_path, [batch])
    amct.save_quant_model_fx(quantized, tmp_path / "out", batch)
    fake = run_fake(quantized, *batch)
    for left, right in zip(run_onnx(tmp_path / "out_fake_quant_model.onnx", *batch), fake, strict=True):
        assert np.allclose(left, right, atol=1e-4)
    layers = json.loads(onnx.load(tmp_path / "out_deploy_model.onnx").metadata_props[0].value)["layers"]
    assert "add" not in layers


class LinearAttention(nn.Module):
    """Divides by a sum that may be 0, plus an epsilon, as EfficientViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).relu()
        result: Tensor = query / (query.sum(-1, keepdim=True) + 1e-5)
        return result


@pytest.mark.parametrize(("smallest", "count"), [(0.0, 1), (1.0, 0)])
def test_calibration_warns_of_divisors_that_round_to_zero(
    smallest: float, count: int, tmp_path: Path, log_lines: LogLines
) -> None:
    model = LinearAttention().eval()
    nn.init.eye_(model.query.weight)
    nn.init.zeros_(model.query.bias)
    quantize(model, tmp_path, [(torch.tensor([[smallest] * 4, [2.0] * 4]),)])
    told = [line for line in log_lines.warnings if "divisors round to 0 on their grid" in line]
    assert [line.startswith("Layer 'truediv': 1 of 2 divisors") for line in told] == [True] * count
