from __future__ import annotations

import importlib
import operator

import pytest
import torch
from torch import nn

from hotwheels.amct_pytorch.ops.desc import OpDesc, Role
from hotwheels.amct_pytorch.ops.registry import Registry
from hotwheels.amct_pytorch.ops.table import TABLE

FUNCTIONS = [(name, desc) for desc in TABLE for name in desc.functions]
METHODS = [(name, desc) for desc in TABLE for name in desc.methods]
MODULES = [(path, desc) for desc in TABLE for path in desc.modules]

# HiSilicon's AMCT manual, chapter "Operators that can be quantized" [支持量化的算子列表], and spec 8.3, by hand.
LISTED_MODULES = [
    "Linear",
    "Conv2d",
    "ConvTranspose2d",
    "MaxPool2d",
    "AvgPool2d",
    "AdaptiveMaxPool2d",
    "AdaptiveAvgPool2d",
    "LayerNorm",
    "Upsample",
    "ReLU",
    "ReLU6",
    "Sigmoid",
    "Tanh",
    "LeakyReLU",
    "PReLU",
    "GELU",
    "Hardtanh",
    "Softmax",
    "Softmax2d",
    "LogSoftmax",
    "ELU",
    "LogSigmoid",
    "Softsign",
    "Softmin",
    "Tanhshrink",
    "GLU",
    "Hardswish",
    "SiLU",
    "Mish",
    "BatchNorm2d",
    "SyncBatchNorm",
]
LISTED_AMCT_MODULES = ["SpaceToDepth", "DepthToSpace", "Warp", "GlobalWarp", "GELU", "LayerNorm"]
LISTED_FUNCTIONALS = [
    "max_pool2d",
    "max_pool2d_with_indices",
    "avg_pool2d",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_with_indices",
    "adaptive_avg_pool2d",
    "upsample",
    "interpolate",
    "relu",
    "relu_",
    "relu6",
    "sigmoid",
    "tanh",
    "leaky_relu",
    "leaky_relu_",
    "prelu",
    "gelu",
    "hardtanh",
    "hardtanh_",
    "softmax",
    "log_softmax",
    "elu",
    "elu_",
    "logsigmoid",
    "softsign",
    "softmin",
    "tanhshrink",
    "glu",
    "hardswish",
    "silu",
    "mish",
]
LISTED_TORCH = [
    "add",
    "sub",
    "mul",
    "div",
    "pow",
    "bmm",
    "sum",
    "matmul",
    "abs",
    "max",
    "min",
    "mean",
    "clamp",
    "permute",
    "transpose",
    "concat",
    "cat",
    "stack",
    "flatten",
    "squeeze",
    "unsqueeze",
    "reshape",
    "split",
]
LISTED_OPERATORS = ["add", "sub", "mul", "truediv", "pow", "matmul", "abs"]
LISTED_METHODS = [
    "add",
    "add_",
    "sub",
    "sub_",
    "mul",
    "mul_",
    "div",
    "div_",
    "pow",
    "pow_",
    "matmul",
    "bmm",
    "abs",
    "abs_",
    "max",
    "min",
    "sum",
    "mean",
    "clamp",
    "clamp_",
    "permute",
    "transpose",
    "flatten",
    "squeeze",
    "unsqueeze",
    "reshape",
    "view",
    "split",
    "relu",
    "relu_",
    "sigmoid",
    "sigmoid_",
    "tanh",
    "tanh_",
]


def resolve(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", LISTED_MODULES)
def test_listed_module_is_found_with_its_public_path(name: str) -> None:
    match = Registry().match_module(getattr(nn, name))
    assert match is not None
    assert match.type == f"torch.nn.{name}"


@pytest.mark.parametrize("name", LISTED_AMCT_MODULES)
def test_listed_amct_module_is_found_with_its_public_path(name: str) -> None:
    path = f"hotwheels.amct_pytorch.nn.{name}"
    match = Registry().match_module(resolve(path))  # type: ignore[arg-type]
    assert match is not None
    assert match.type == path


@pytest.mark.parametrize(
    "path",
    [f"torch.nn.functional.{name}" for name in LISTED_FUNCTIONALS]
    + [f"torch.{name}" for name in LISTED_TORCH]
    + [f"operator.{name}" for name in LISTED_OPERATORS],
)
def test_listed_function_is_its_own_type_string(path: str) -> None:
    registry = Registry()
    assert registry.find_function(resolve(path)) is not None  # type: ignore[arg-type]
    assert registry.function_type(resolve(path)) == path  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LISTED_METHODS)
def test_listed_method_is_found(name: str) -> None:
    assert Registry().find_method(name) is not None


@pytest.mark.parametrize(("name", "desc"), FUNCTIONS, ids=[name for name, _ in FUNCTIONS])
def test_function_of_the_table_exists(name: str, desc: OpDesc) -> None:
    found = Registry().find_function(resolve(name))  # type: ignore[arg-type]
    assert found is not None
    assert found.name == desc.name


@pytest.mark.parametrize(("name", "desc"), METHODS, ids=[name for name, _ in METHODS])
def test_method_of_the_table_exists(name: str, desc: OpDesc) -> None:
    assert callable(getattr(torch.Tensor, name))
    found = Registry().find_method(name)
    assert found is not None
    assert found.name == desc.name


@pytest.mark.parametrize(("path", "desc"), MODULES, ids=[path for path, _ in MODULES])
def test_module_of_the_table_exists(path: str, desc: OpDesc) -> None:
    found = Registry().find_module(resolve(path))  # type: ignore[arg-type]
    assert found is not None
    assert found.name == desc.name


def test_what_the_manual_does_not_list_is_off_by_default() -> None:
    off = {desc.name for desc in Registry().descs if not desc.is_default_enabled}
    norms = {"batch_norm1d", "group_norm", "instance_norm", "rms_norm"}
    assert off == {"softsign", "hardtanh", "hardsigmoid", *norms}


def test_activations_of_a_convolution_are_those_of_the_manual() -> None:
    fused = {desc.name for desc in TABLE if desc.role is Role.FUSED_ACTIVATION}
    assert fused == {"relu", "relu6", "sigmoid", "tanh", "leaky_relu", "prelu"}


def test_unknown_function_has_the_path_it_gives_itself() -> None:
    registry = Registry()
    assert registry.function_type(operator.getitem) == "operator.getitem"
    assert registry.find_function(operator.getitem) is None
