"""What users' forwards call besides layers, on both paths: taken and exact, or refused with the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hotwheels.amct_pytorch as amct
from tests.support import dynamic_path, fx_path
from tests.support.both_paths import PATHS, saved

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x))


class Net(nn.Module):
    """A call between two convolutions."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor], inner: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.inner, self.last = nn.Conv2d(3, 4, 3, padding=1), inner or Block(), nn.Conv2d(4, 5, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self, self.first(x)))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("is_reentrant", [True, False])
def test_checkpointed_part_is_quantized_like_any(path: str, is_reentrant: bool, tmp_path: Path) -> None:
    net = Net(lambda self, y: checkpoint(self.inner, y, use_reentrant=is_reentrant)).eval()
    result = saved(path, net, tmp_path, [X])
    assert len(result.layers) == 3
    assert result.assert_exact(X).edges >= 3


@pytest.mark.parametrize("path", PATHS)
def test_functions_without_a_symbolic_are_written(path: str, tmp_path: Path) -> None:
    net = Net(lambda _, y: torch.trunc(torch.rot90(y, 1, (2, 3)) * 3) + torch.cumprod(y, 1)).eval()
    assert saved(path, net, tmp_path, [X]).assert_exact(X).edges >= 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("make", [torch.jit.script, lambda block: torch.jit.trace(block, X[:, :1].expand(2, 4, 8, 8))])
def test_torchscript_inside_a_model_is_refused_by_name(path: str, make: Any, tmp_path: Path) -> None:
    net = Net(lambda self, y: self.inner(y), make(Block().eval())).eval()
    with pytest.raises(amct.UnsupportedModelError, match=r"submodule 'inner' is TorchScript \(Block\).*state_dict"):
        saved(path, net, tmp_path, [X])


def _resized(_: nn.Module, y: Tensor) -> Tensor:
    return F.interpolate(y, size=(5, 3), mode="area")


@pytest.mark.parametrize(
    ("between", "inner"),
    [
        (_resized, None),
        (lambda _, y: F.adaptive_avg_pool2d(y, (5, 3)), None),
        (lambda self, y: self.inner(y), nn.AdaptiveAvgPool2d((5, 3))),
        (lambda self, y: self.inner(y), nn.Upsample(size=(5, 3), mode="area")),
    ],
    ids=["area", "adaptive", "AdaptiveAvgPool2d", "Upsample"],
)
def test_windows_of_several_sizes_are_products_in_float(between: Any, inner: nn.Module | None, tmp_path: Path) -> None:
    net = Net(between, inner).eval()
    config = tmp_path / "config.json"
    amct.create_quant_config_fx(config, net, input_data=X)
    quantized = amct.create_quant_model_fx(config, net, input_data=X)
    fx_path.calibrate(quantized, [(X,)])
    amct.save_quant_model_fx(quantized, tmp_path / "out" / "net", X, golden_inputs=X)
    nodes = onnx.load(tmp_path / "out" / "net_deploy_model.onnx").graph.node
    assert [node.op_type for node in nodes] == ["Conv", "MatMul", "MatMul", "Conv"]


def test_layer_with_windows_of_several_sizes_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(amct.ExportError, match=r"Layer 'interpolate': from \[8, 8\] to \[5, 3\].*quant_enable"):
        saved("fx", Net(_resized).eval(), tmp_path, [X])
    net = Net(lambda self, y: self.inner(y), nn.AdaptiveAvgPool2d((5, 3))).eval()
    with pytest.raises(amct.ExportError, match=r"Layer 'inner': from \[8, 8\] to \[5, 3\].*functional"):
        dynamic_path.make_config(net, tmp_path, X)
    assert saved("dynamic", Net(_resized).eval(), tmp_path, [X]).assert_exact(X).edges >= 2


def branch_on_values(y: Tensor) -> Tensor:
    if y.mean() > 0:
        return y * 2
    return y * 3


torch.fx.wrap("branch_on_values")


class WithFunction(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(branch_on_values(self.first(x)))


def test_golden_inputs_on_another_branch_of_a_wrapped_function_name_it(tmp_path: Path) -> None:
    net = WithFunction(_resized).eval()
    with torch.no_grad():
        net.first.weight.abs_()
        net.first.bias.zero_()
    quantized = fx_path.quantize(net, tmp_path, [(torch.cat([X.abs(), -X.abs()]),)])
    text = r"calls 'branch_on_values' \(.*test_unusual_calls.py:\d+\).*torch\.where"
    with pytest.raises(amct.ExportError, match=text):
        amct.save_quant_model_fx(quantized, tmp_path / "net", -X.abs(), golden_inputs=X.abs())


class Keywords(Net):
    def forward(self, x: Tensor, **kwargs: Tensor) -> Tensor:
        return self.last(self.first(x) * kwargs["gain"])


def test_dynamic_path_says_what_to_write_instead_of_keywords(tmp_path: Path) -> None:
    net, inputs = Keywords(_resized).eval(), (X, {"gain": torch.rand(1)})
    text = r"'gain' can be given.*def forward\(self, x, gain\).*self\.model\(x, gain=gain\)"
    with pytest.raises(amct.UnsupportedModelError, match=text):
        dynamic_path.make_config(net, tmp_path, inputs)
