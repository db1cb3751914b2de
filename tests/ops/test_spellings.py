"""The usual spellings of an operation, against the names that a trace records."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from hotwheels.amct_pytorch.ops.registry import Registry
from hotwheels.amct_pytorch.ops.spellings import is_custom_op, is_known, may_become, types_called
from hotwheels.amct_pytorch.ops.table import TABLE

OURS = "hotwheels.amct_pytorch.nn."
SPELLINGS = {
    "Conv2d": {"torch.nn.Conv2d"},
    "nn.Conv2d": {"torch.nn.Conv2d"},
    "torch.nn.Conv2d": {"torch.nn.Conv2d"},
    "torch.nn.modules.conv.Conv2d": {"torch.nn.Conv2d"},
    "Tensor.add": {"add"},
    "torch.Tensor.add_": {"add_"},
    "add": {"add"},
    "operator.iadd": {"operator.iadd", "operator.add"},
    "torch.nn.functional.sigmoid": {"torch.nn.functional.sigmoid", "sigmoid"},
    "F.tanh": {"torch.nn.functional.tanh", "tanh"},
    "nn.functional.upsample": {"torch.nn.functional.upsample", "torch.nn.functional.interpolate"},
    "torch.conv2d": {"torch.nn.functional.conv2d"},
    "amct.nn.LayerNorm": {f"{OURS}LayerNorm"},
    "pico_nn.LayerNorm": {f"{OURS}LayerNorm"},
    "LayerNorm": {f"{OURS}LayerNorm", "torch.nn.LayerNorm"},
    "torch.nn.Conv2D": set(),
    "torch.save": set(),
    "torch.nn.LSTM": set(),
    "os.system": set(),
    "torch..": set(),
    "": set(),
}


@pytest.mark.parametrize(("name", "types"), SPELLINGS.items())
def test_spellings(name: str, types: set[str]) -> None:
    assert types_called(name) == types


@pytest.mark.parametrize("desc", TABLE, ids=lambda desc: desc.name)
def test_every_type_string_is_a_spelling_of_itself(desc) -> None:
    for name in (*desc.modules, *desc.functions, *desc.methods):
        assert name in types_called(name)
        assert is_known(name)
    assert all(map(is_known, desc.onnx_types))


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "upsample"])
def test_functions_that_are_recorded_as_others(name: str) -> None:
    class Net(nn.Module):
        def forward(self, x):
            function = getattr(functional, name)
            return function(x, scale_factor=2) if name == "upsample" else function(x)

    node = next(one for one in torch.fx.symbolic_trace(Net()).graph.nodes if one.op.startswith("call"))
    recorded = node.target if node.op == "call_method" else Registry().function_type(node.target)
    assert recorded in types_called(f"F.{name}")


def test_onnx_types_that_are_nobody_s_usual_one() -> None:
    assert {"avg_pool2d", "adaptive_avg_pool2d"} <= may_become("GlobalAveragePool")
    assert may_become("Max") == {"max"}
    assert may_become("MatMul") == may_become("Conv") == may_become("Nothing") == frozenset()


def test_extension_modules() -> None:
    path = "hotwheels.amct_pytorch.custom_op.eltwise_add.eltwise_add.EltwiseAdd"
    names = ("EltwiseAdd", "amct.EltwiseAdd", "hotwheels.amct_pytorch.EltwiseAdd")
    assert all(is_custom_op(path, name) for name in names)
    assert not is_custom_op("operator.add", "add")
    assert is_known("amct.EltwiseAdd")
    assert not is_known("amct.EltwiseAbs")
