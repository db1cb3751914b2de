"""Every row of capacity_config.csv means the same on both paths: the file is edited, and both graphs follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch import capacity
from hotwheels.amct_pytorch.backends.dynamic.backend import DynamicBackend
from hotwheels.amct_pytorch.backends.fx.backend import FxBackend
from hotwheels.amct_pytorch.config.dynamic.calibration_config import to_quant_config
from hotwheels.amct_pytorch.config.dynamic.expand_dynamic import expand_calibration
from hotwheels.amct_pytorch.config.fx.expand import expand
from hotwheels.amct_pytorch.config.layers.quant_config import QuantConfig
from hotwheels.amct_pytorch.custom_op import discovery
from hotwheels.amct_pytorch.graph import OpGraph
from hotwheels.amct_pytorch.ops.registry import Registry
from hotwheels.amct_pytorch.plan.checks import find_violations
from tests.support.log_lines import LogLines

PATHS = ("fx", "dynamic")
INSTALLED = Path(capacity.reader.__file__).with_name("capacity_config.csv").read_text()
PAIRS = capacity.read_capacity().pairs("NO_WEIGHT_QUANT")


@pytest.fixture
def csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the installed file, read in its place."""
    copied = tmp_path / "capacity_config.csv"
    copied.write_text(INSTALLED)
    monkeypatch.setattr(capacity.reader, "_FILE", str(copied))
    return copied


def edit(csv: Path, row: str, change: Callable[[list[str]], list[str]]) -> None:
    lines = csv.read_text().splitlines()
    for index, line in enumerate(lines):
        name, kind, *values = [field.strip() for field in line.split(",")]
        if name == row:
            lines[index] = ", ".join([name, kind, *(change(values) or [","])])
    csv.write_text("\n".join(lines))


def add(csv: Path, row: str, *values: str) -> None:
    edit(csv, row, lambda old: [*old, *values])


def remove(csv: Path, row: str, *values: str) -> None:
    edit(csv, row, lambda old: [one for one in old if one not in values])


def remove_pair(csv: Path, row: str, torch_type: str) -> None:
    """Takes a class out of ``<row>_TYPES`` and the value at its place out of ``<row>_ONNX_TYPES``."""
    places: list[int] = []
    edit(csv, f"{row}_TYPES", lambda old: [one for at, one in enumerate(old) if one != torch_type or places.append(at)])
    edit(csv, f"{row}_ONNX_TYPES", lambda old: [one for at, one in enumerate(old) if at not in places])


def read(path: str, model: nn.Module, *inputs: Tensor) -> OpGraph:
    if path == "fx":
        return FxBackend(model.eval(), Registry()).graph()
    return DynamicBackend(model.eval(), inputs).graph()


def configured(path: str, graph: OpGraph) -> QuantConfig:
    """The default configuration of the path."""
    return expand(graph, None) if path == "fx" else to_quant_config(expand_calibration(graph, None), graph)


def layers(path: str, model: nn.Module, *inputs: Tensor) -> list[str]:
    return [node.name for node in read(path, model, *inputs).quantizable]


class Around(nn.Module):
    """``tested`` between additions, so that nothing in front of it takes it up."""

    def __init__(self, tested: nn.Module, count: int = 1) -> None:
        super().__init__()
        self.tested, self.plus, self.count = tested, amct.EltwiseAdd(), count

    def forward(self, x: Tensor) -> Any:
        x = self.plus(x, x)
        return self.tested(*[x] * self.count)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "MaxPool2d": lambda: nn.MaxPool2d(2),
    "AvgPool2d": lambda: nn.AvgPool2d(2),
    "AdaptiveMaxPool2d": lambda: nn.AdaptiveMaxPool2d(1),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d(1),
    "MaxPool1d": lambda: nn.MaxPool1d(2),
    "AvgPool1d": lambda: nn.AvgPool1d(2),
    "AdaptiveMaxPool1d": lambda: nn.AdaptiveMaxPool1d(1),
    "AdaptiveAvgPool1d": lambda: nn.AdaptiveAvgPool1d(1),
    "Softmax": lambda: nn.Softmax(1),
    "LogSoftmax": lambda: nn.LogSoftmax(1),
    "Upsample": lambda: nn.Upsample(scale_factor=2),
    "BatchNorm2d": lambda: nn.BatchNorm2d(4),
    "Split": lambda: amct.Split(2, 1),
    "SpaceToDepth": lambda: amct.nn.SpaceToDepth(2),
    "DepthToSpace": lambda: amct.nn.DepthToSpace(2),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(8),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(4),
    "InstanceNorm3d": lambda: nn.InstanceNorm3d(4),
    "RMSNorm": lambda: nn.RMSNorm(8),
}
FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "MaxPool2d": lambda x: nn.functional.max_pool2d(x, 2),
    "Sigmoid": torch.sigmoid,
    "EltwiseAdd": lambda x: x + x,
    "Cat": lambda x: torch.cat([x, x]),
    "MatMul": lambda x: torch.bmm(x[0], x[0]),
    "Max": lambda x: x.max(1, keepdim=True),
    "Softmax": lambda x: x.softmax(1),
    "Upsample": lambda x: nn.functional.interpolate(x, scale_factor=2),
}
TWO_INPUTS = ("EltwiseAdd", "EltwiseSub", "EltwiseMul", "EltwiseDiv", "MatMul", "Cat")
X = torch.randn(2, 4, 8, 8)
SHAPED = {"InstanceNorm3d": X[..., None]}


def net(torch_type: str) -> Around:
    make = MODULES.get(torch_type) or getattr(nn, torch_type, None) or getattr(amct, torch_type)
    return Around(make(), 2 if torch_type in TWO_INPUTS else 1)


@pytest.mark.parametrize("torch_type", [torch_type for torch_type, _ in PAIRS])
def test_a_pair_of_no_weight_quant_types_makes_a_class_quantizable(csv: Path, torch_type: str) -> None:
    # torch's exporter writes a Softsign as three nodes, so the dynamic path has no layer of that type in any case.
    paths = ("fx",) if torch_type == "Softsign" else PATHS
    x = SHAPED.get(torch_type, X[0] if torch_type.endswith("1d") else X)
    assert all("tested" in layers(path, net(torch_type), x) for path in paths)
    remove_pair(csv, "NO_WEIGHT_QUANT", torch_type)
    assert not any("tested" in layers(path, net(torch_type), x) for path in PATHS)


@pytest.mark.parametrize("torch_type", FUNCTIONS)
def test_a_class_stands_for_the_functions_that_do_the_same(csv: Path, torch_type: str) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return FUNCTIONS[torch_type](x.abs())

    before = layers("fx", Net())
    remove_pair(csv, "NO_WEIGHT_QUANT", torch_type)
    graph = read("fx", Net())
    (lost,) = set(before) - {node.name for node in graph.quantizable}
    assert graph[lost].unquantizable == "the capacity file does not list its type as quantizable"


@pytest.mark.parametrize("path", PATHS)
def test_a_pair_whose_onnx_type_is_another_makes_nothing_quantizable(csv: Path, path: str) -> None:
    edit(csv, "NO_WEIGHT_QUANT_ONNX_TYPES", lambda old: ["Tan" if one == "Tanh" else one for one in old])
    assert "tested" not in layers(path, net("Tanh"), X)


class Weighted(nn.Module):
    """A layer with weights, a BatchNorm and an activation behind it."""

    def __init__(self, layer: nn.Module, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.layer, self.norm, self.activation = layer, norm, activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.layer(x)))


def conv_net(activation: nn.Module | None = None) -> Weighted:
    return Weighted(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), activation or nn.ReLU())


WEIGHTED: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "Conv2d": (conv_net, X),
    "ConvTranspose2d": (lambda: Weighted(nn.ConvTranspose2d(4, 4, 2), nn.BatchNorm2d(4), nn.ReLU()), X),
    "Linear": (lambda: Weighted(nn.Linear(4, 4), nn.Softmax(1), nn.Tanh()), torch.randn(2, 4)),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("torch_type", WEIGHTED)
def test_quantizable_types(csv: Path, torch_type: str, path: str) -> None:
    """What stands behind a convolution belongs to it, quantized or not."""
    make, x = WEIGHTED[torch_type]
    before = layers(path, make(), x)
    assert before[0] == "layer"
    remove_pair(csv, "QUANTIZABLE", torch_type)
    assert layers(path, make(), x) == before[1:]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("torch_type", ["Conv2d", "ConvTranspose2d"])
def test_channel_wise_types(csv: Path, torch_type: str, path: str) -> None:
    make, x = WEIGHTED[torch_type]

    def is_channel_wise() -> object:
        weight = configured(path, read(path, make(), x)).layers["layer"].weight
        return weight is not None and weight.args["channel_wise"]

    assert is_channel_wise()
    remove_pair(csv, "CHANNEL_WISE", torch_type)
    assert not is_channel_wise()


@pytest.mark.parametrize("path", PATHS)
def test_not_default_quant_types(csv: Path, path: str) -> None:
    def is_on(torch_type: str) -> bool:
        return configured(path, read(path, net(torch_type), X)).layers["tested"].quant_enable

    assert (is_on("Tanh"), is_on("EltwiseMul"), is_on("Hardtanh")) == (True, True, False)
    add(csv, "NOT_DEFAULT_QUANT_TYPES", "Tanh", "EltwiseMul")
    remove(csv, "NOT_DEFAULT_QUANT_TYPES", "Hardtanh")
    assert (is_on("Tanh"), is_on("EltwiseMul"), is_on("Hardtanh")) == (False, False, True)


@pytest.mark.parametrize("path", PATHS)
def test_fused_activation_types(csv: Path, path: str) -> None:
    assert "activation" not in layers(path, conv_net(), X)
    assert "activation" in layers(path, conv_net(nn.ELU()), X)
    remove(csv, "FUSED_ACTIVATION_TYPES", "ReLU")
    add(csv, "FUSED_ACTIVATION_TYPES", "ELU")
    assert "activation" in layers(path, conv_net(), X)
    assert "activation" not in layers(path, conv_net(nn.ELU()), X)


@pytest.mark.parametrize("path", PATHS)
def test_fuse_types(csv: Path, path: str) -> None:
    assert read(path, conv_net(), X)["norm"].is_fold_target
    remove(csv, "FUSE_TYPES", "BatchNorm2d")
    assert layers(path, conv_net(), X) == ["layer", "norm", "activation"]


def violations(path: str, model: nn.Module) -> list[str]:
    """The layers that break a rule where no layer is quantized."""
    return [one.name for one in find_violations(read(path, model, X), QuantConfig({}))]


@pytest.mark.parametrize("path", PATHS)
def test_cube_onnx_types(csv: Path, path: str) -> None:
    pools = (Around(nn.AdaptiveAvgPool2d(1)), Around(nn.AdaptiveAvgPool2d(2)))
    assert violations(path, conv_net()) == ["layer"]
    assert [violations(path, one) for one in pools] == [["tested"], ["tested"]]
    assert violations(path, net("MatMul")) == []
    remove(csv, "CUBE_ONNX_TYPES", "Conv", "GlobalAveragePool")
    add(csv, "CUBE_ONNX_TYPES", "MatMul")
    assert violations(path, conv_net()) == []
    assert [violations(path, one) for one in pools] == [[], ["tested"]]
    assert violations(path, net("MatMul")) == ["tested"]


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cat, self.conv = amct.Cat(1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.cat(x, x.abs()))


@pytest.mark.parametrize("path", PATHS)
def test_no_command_onnx_types(csv: Path, path: str) -> None:
    def broken() -> list[str]:
        graph = read(path, Joined(), X)
        config = configured(path, graph)
        only_conv = QuantConfig({"conv": config.layers["conv"]})
        return [one.name for one in find_violations(graph, only_conv)]

    assert broken() == ["conv"]
    remove(csv, "NO_COMMAND_ONNX_TYPES", "Concat")
    assert broken() == []


class OwnPool(nn.MaxPool2d):
    """Computes what its base computes, in a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(x, self.kernel_size)


@pytest.mark.parametrize("path", PATHS)
def test_leaf_module_packages(csv: Path, path: str) -> None:
    def is_module_layer() -> bool:
        found = read(path, Around(OwnPool(2)), X).nodes.get("tested")
        return found is not None and found.type == "torch.nn.MaxPool2d" and found.is_quantizable

    assert not is_module_layer()
    add(csv, "LEAF_MODULE_PACKAGES", OwnPool.__module__)
    assert is_module_layer()


class OwnConv(nn.Conv2d):
    """Computes what its base computes, in a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight, self.bias)


def test_a_convolution_with_a_forward_of_its_own_needs_no_leaf_package_on_the_dynamic_path(csv: Path) -> None:
    """The dynamic path has no trace: there a convolution with a forward of its own is a layer anyway (spec 9.1)."""

    def is_module_layer(path: str) -> bool:
        found = read(path, Around(OwnConv(4, 4, 1)), X).nodes.get("tested")
        return found is not None and found.type == "torch.nn.Conv2d" and found.is_quantizable

    assert (is_module_layer("fx"), is_module_layer("dynamic")) == (False, True)
    add(csv, "LEAF_MODULE_PACKAGES", OwnConv.__module__)
    assert (is_module_layer("fx"), is_module_layer("dynamic")) == (True, True)


def test_shift_n_types_are_about_records_of_the_dynamic_path(csv: Path) -> None:
    """The FX path has no shift bits (spec 4.6)."""
    assert read("dynamic", conv_net(), X)["layer"].op.has_shift  # type: ignore[union-attr]
    remove(csv, "SHIFT_N_TYPES", "Conv2d")
    assert not read("dynamic", conv_net(), X)["layer"].op.has_shift  # type: ignore[union-attr]


def test_fx_quant_types_are_about_the_fx_path(csv: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gelu = nn.GELU()

        def forward(self, x: Tensor) -> Tensor:
            return self.gelu(x).abs()

    assert (layers("fx", Net()), layers("dynamic", Net(), X)) == (["gelu", "abs_1"], [])
    remove(csv, "FX_QUANT_TYPES", "GELU", "abs")
    assert (layers("fx", Net()), layers("dynamic", Net(), X)) == ([], [])


@pytest.mark.parametrize("path", PATHS)
def test_a_registered_operation_needs_no_row(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Floor(amct.CustomModuleBase):
        onnx_type = "Floor"
        num_inputs = 1

        def forward(self, x: Tensor) -> Tensor:
            return torch.floor(x)

    monkeypatch.setattr(discovery, "_quantized", set())
    for quantize, expected in ((False, False), (True, True), (False, False)):
        amct.register_custom_op(Floor, quantize=quantize)
        found = read(path, Around(Floor()), X).nodes.get("tested")
        assert (found is not None and found.is_quantizable) is expected


def test_a_registered_operation_whose_onnx_type_is_misspelled_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, log_lines: LogLines
) -> None:
    class Floor(amct.CustomModuleBase):
        onnx_type = "Flooor"
        num_inputs = 1

        def forward(self, x: Tensor) -> Tensor:
            return torch.floor(x)

    monkeypatch.setattr(discovery, "_quantized", set())
    amct.register_custom_op(Floor, quantize=True)
    read("dynamic", Around(Floor()), X)
    (warning,) = log_lines.warnings
    assert "'tested': it is not quantized: the exporter writes it as Floor, not as one Flooor node" in warning
