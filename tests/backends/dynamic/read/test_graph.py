"""The graph of the dynamic back-end: layers named by module path, other nodes by ONNX node (spec 9.1)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.dynamic.backend import DynamicBackend
from hotwheels.amct_pytorch.backends.dynamic.read.folding import Fusion
from hotwheels.amct_pytorch.graph import Form, OpGraph
from tests.support.log_lines import log_lines

__all__ = ["log_lines"]

X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def read(model: nn.Module, *inputs: Any, fusion: Fusion | None = None) -> OpGraph:
    return DynamicBackend(model.eval(), inputs or (X,)).graph(fusion)


def layers(graph: OpGraph) -> list[str]:
    return [node.name for node in graph.quantizable]


class Pair(nn.Module):
    """A convolution, its BatchNorm and an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


def test_batch_norm_and_activation_belong_to_the_convolution() -> None:
    graph = read(Pair())
    assert layers(graph) == ["conv"]
    assert graph["bn"].is_fold_target and not graph["relu"].is_fold_target
    assert "convolution 'conv'" in str(graph["relu"].unquantizable)


@pytest.mark.parametrize("fusion", [Fusion(is_on=False), Fusion(skipped=("conv",)), Fusion(skipped=("bn",))])
def test_batch_norm_that_keeps_to_itself_is_a_layer(fusion: Fusion) -> None:
    assert layers(read(Pair(), fusion=fusion)) == ["conv", "bn", "relu"]


def test_nodes_know_their_onnx_names() -> None:
    graph = read(Pair())
    assert (graph["conv"].onnx_type, graph["conv"].onnx_name) == ("Conv", "/conv/Conv")
    assert graph["conv"].edges[0].producer == "x"
    assert graph["x"].form is Form.INPUT


def test_results_of_a_split_are_told_apart() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.split = amct.Split(2, 1)
            self.left, self.right = nn.Conv2d(2, 2, 1), nn.Conv2d(1, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            first, second = self.split(x)
            return self.left(first), self.right(second)

    graph = read(Net())
    assert [graph[name].edges[0].producer for name in ("left", "right")] == ["split[0]", "split[1]"]
    assert graph["split[0]"].is_pick and graph["split[0]"].inputs == ("split",)


def test_functions_are_nodes_without_a_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(F.max_pool2d(x, 2))

    graph = read(Net())
    assert graph["/MaxPool"].onnx_type == "MaxPool" and not graph["/MaxPool"].is_quantizable
    assert graph["conv"].edges[0].producer == "/MaxPool"


# --- what is not one operation ---


class OwnForward(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).abs()


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.extra = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.extra(x)
        return self.conv(x)


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matmul, self.bias = amct.MatMul(), nn.Parameter(torch.ones(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.matmul(x, self.bias)


def test_subclass_with_a_forward_of_its_own_is_a_layer() -> None:
    model = nn.Sequential(OwnForward(3, 4, 1), nn.Conv2d(4, 4, 1))
    graph = read(model)
    assert layers(graph) == ["0", "1"]
    assert graph["1"].edges[0].producer != "0"  # what the forward does behind the convolution stands between


def test_subclass_that_calls_its_operation_twice_is_no_layer(log_lines: Any) -> None:
    class Twice(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(super().forward(input))

    assert layers(read(nn.Sequential(Twice(3, 3, 1), nn.Conv2d(3, 4, 1)))) == ["1"]
    assert "'0' is not quantized: its forward calls the operation 2 times, not once" in log_lines.warnings[0]


def test_module_without_effect_is_said_to_be_unused() -> None:
    graph = read(Unused())
    assert layers(graph) == ["conv"]
    assert "does not call it" in str(graph["extra"].unquantizable)


def test_product_with_a_parameter_is_no_layer() -> None:
    graph = read(Constant())
    assert "one of its operands is a parameter" in str(graph["matmul"].unquantizable)


def test_adaptive_pooling_of_a_divisor_is_an_average_pooling() -> None:
    graph = read(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ELU(), nn.AdaptiveAvgPool2d((4, 4)), nn.Hardtanh(-2, 3)))
    assert layers(graph) == ["0", "1", "2", "3"]
    assert graph["2"].onnx_type == "AveragePool"


def test_padding_belongs_to_the_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"))
    backend = DynamicBackend(model.eval(), (X,))
    assert layers(backend.graph()) == ["0"]
    assert {"0", "0_pad"} <= {str(node.name) for node in backend._export.model.graph}


def test_calls_of_one_module_are_uses_of_one_layer() -> None:
    elu = nn.ELU()
    graph = read(nn.Sequential(elu, nn.Conv2d(3, 3, 1), elu))
    assert layers(graph) == ["0", "1", "0:1"]
    assert list(graph.layers) == ["0", "1"]
    assert [node.name for node in graph.uses["0"]] == ["0", "0:1"]
    assert [node.edges[0].producer for node in graph.uses["0"]] == ["input", "1"]


class Blocks(nn.Module):
    """One ReLU behind a convolution, which it then belongs to, and behind a sum in the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.last = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn(self.conv(x)))
        y = self.bn(self.conv(y))
        y += x
        return self.last(self.relu(y))


def test_call_behind_a_convolution_is_no_use_of_the_layer() -> None:
    graph = read(Blocks())
    assert list(graph.layers) == ["conv", "relu", "last"]
    assert [node.name for node in graph.uses["conv"]] == ["conv", "conv:1"]
    assert [node.name for node in graph.uses["relu"]] == ["relu:1"]
    assert "convolution 'conv'" in str(graph["relu"].unquantizable)
    assert graph["bn"].is_fold_target and graph["bn:1"].is_fold_target


def test_batch_norm_behind_one_of_two_calls_is_not_folded() -> None:
    class Net(Blocks):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.bn(self.conv(x)) + self.conv(x))

    graph = read(Net())
    assert list(graph.layers) == ["conv", "bn", "last"]
    assert not graph["bn"].is_fold_target


def test_calls_with_different_inputs_are_no_layer(log_lines: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cat, self.conv = amct.Cat(1), nn.Conv2d(9, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(self.cat(x, x, x))
            return self.cat(x, y)

    assert layers(read(Net())) == ["conv"]
    assert len(log_lines.warnings) == 1
    assert "'cat' is not quantized: its module is called several times, with 2 and with 3" in log_lines.warnings[0]


def test_values_of_an_inner_graph_are_read_from_outside() -> None:
    @torch.jit.script
    def maybe(x: Tensor) -> Tensor:
        if bool(x.sum() > 0):
            return x * 2
        return x + 1

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.after = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.after(maybe(self.conv(x)))

    graph = read(Net())
    chosen = next(node for node in graph if node.onnx_type == "If")
    assert "conv" in chosen.inputs
    assert graph["after"].edges[0].producer == chosen.name
