"""One case for every spelling of the table of operations: a model that calls it, and its inputs."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotwheels.amct_pytorch import nn as amct_nn

Call = Callable[["OpNet", Tensor, Tensor], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One spelled operation.

    Attributes:
      spelling: Type string as the table has it.
      call: Calls it in the forward of an `OpNet`, with the results ``y`` and ``z`` [N, 4, 6, 6] of two branches.
      make: Makes the module, for operations spelled as one.
      recorded: Type string which torch.fx records where that is another one.
      inputs: Number of quantizable inputs.
      variant: Tells several cases of one spelling apart.
      is_positive: Whether the inputs must be positive.
      is_after_convolution: Whether it stands right behind a convolution. An activation there would belong to it.
    """

    spelling: str
    call: Call
    make: Callable[[], nn.Module] | None = None
    recorded: str | None = None
    inputs: int = 1
    variant: str = ""
    is_positive: bool = False
    is_after_convolution: bool = True

    @property
    def id(self) -> str:
        return f"{self.spelling}-{self.variant}" if self.variant else self.spelling


class OpNet(nn.Module):
    """Two convolutions, the operation, an elementwise operation."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.bend_left, self.bend_right = _bend(case), _bend(case)
        self.slope = nn.Parameter(torch.full((4,), 0.3))
        self.made = case.make() if case.make else None
        self.kernel, self.matrix = nn.Parameter(torch.randn(4, 4, 3, 3)), nn.Parameter(torch.randn(7, 144))
        self._call = case.call

    def forward(self, x: Tensor) -> Tensor:
        result = self._call(self, self.bend_left(self.left(x)), self.bend_right(self.right(x)))
        return result * 0.5


def _bend(case: Case) -> nn.Module:
    if case.is_positive:
        return nn.Sigmoid()
    return nn.Identity() if case.is_after_convolution else nn.Hardswish()


def _module(path: str, make: Callable[[], nn.Module], call: Call | None = None, **facts: Any) -> Case:
    return Case(path, call or (lambda net, y, z: net.made(y)), make, **facts)


def _nn(name: str, *args: Any, **facts: Any) -> Case:
    return _module(f"torch.nn.{name}", lambda: getattr(nn, name)(*args), **facts)


def _function(path: str, *args: Any, **facts: Any) -> Case:
    """A function of one tensor and ``args``."""
    function = _resolve(path)
    return Case(path, lambda net, y, z: function(y, *args), **facts)


def _method(name: str, *args: Any, **facts: Any) -> Case:
    """A method of one tensor with ``args``."""
    return Case(name, lambda net, y, z: getattr(y, name)(*args), **facts)


def _two_function(path: str, **facts: Any) -> Case:
    function = _resolve(path)
    return Case(path, lambda net, y, z: function(y, z), inputs=2, **facts)


def _two_method(name: str, **facts: Any) -> Case:
    return Case(name, lambda net, y, z: getattr(y, name)(z), inputs=2, **facts)


def _resolve(path: str) -> Callable[..., Any]:
    home, _, name = path.rpartition(".")
    return getattr({"operator": operator, "torch": torch, "torch.nn.functional": F}[home], name)


def _unary(
    modules: tuple[Case, ...], functions: str = "", methods: str = "", args: Any = (), **facts: Any
) -> list[Case]:
    return [
        *modules,
        *(_function(path, *args, **facts) for path in functions.split()),
        *(_method(name, *args, **facts) for name in methods.split()),
    ]


_F = "torch.nn.functional."
_FLAT = {"is_after_convolution": False}

_WEIGHTED = [
    _nn("Conv2d", 4, 5, 3),
    _nn("ConvTranspose2d", 4, 5, 2, 2),
    _module("torch.nn.Linear", lambda: nn.Linear(144, 7), lambda net, y, z: net.made(y.flatten(1)), variant="2d"),
    _nn("Linear", 6, 7, variant="4d"),
    Case(f"{_F}conv2d", lambda net, y, z: F.conv2d(y, net.kernel, padding=1)),
    Case(f"{_F}conv_transpose2d", lambda net, y, z: F.conv_transpose2d(y, net.kernel, stride=2)),
    Case(f"{_F}linear", lambda net, y, z: F.linear(y.flatten(1), net.matrix), variant="2d"),
    Case(f"{_F}linear", lambda net, y, z: F.linear(y.transpose(1, 3), net.matrix[:, :4]), variant="4d"),
]


def _sequence(name: str, *args: Any, **facts: Any) -> Case:
    """A module on sequences."""
    return _module(
        f"torch.nn.{name}", lambda: getattr(nn, name)(*args), lambda net, y, z: net.made(y.flatten(2)), **facts
    )


def _sequence_function(path: str, *args: Any, **facts: Any) -> Case:
    function = _resolve(path)
    return Case(path, lambda net, y, z: function(y.flatten(2), *args), **facts)


_SEQUENCES = [
    _sequence("Conv1d", 4, 5, 3, 2, 1),
    _sequence("ConvTranspose1d", 4, 6, 3, 2, 1, 1, 2),
    Case(f"{_F}conv1d", lambda net, y, z: F.conv1d(y.flatten(2), net.kernel[..., 0], padding=2, dilation=2)),
    Case(f"{_F}conv_transpose1d", lambda net, y, z: F.conv_transpose1d(y.flatten(2), net.kernel[..., 0], stride=2)),
    _sequence("MaxPool1d", 3, 2, 1),
    _sequence_function(f"{_F}max_pool1d", 2),
    Case(f"{_F}max_pool1d_with_indices", lambda net, y, z: F.max_pool1d_with_indices(y.flatten(2), 2)[0]),
    _sequence_function("torch.max_pool1d", 2),
    _sequence("AvgPool1d", 3, 2, 1),
    _sequence_function(f"{_F}avg_pool1d", 3, 2, 1, True, False),
    _sequence("AdaptiveMaxPool1d", 4),
    _sequence_function(f"{_F}adaptive_max_pool1d", 6),
    Case(
        f"{_F}adaptive_max_pool1d_with_indices",
        lambda net, y, z: F.adaptive_max_pool1d_with_indices(y.flatten(2), 3)[0],
    ),
    _sequence("AdaptiveAvgPool1d", 4),
    _sequence_function(f"{_F}adaptive_avg_pool1d", 1),
]

_CUBE = [
    _nn("MaxPool2d", 2),
    _function(f"{_F}max_pool2d", 2),
    Case(f"{_F}max_pool2d_with_indices", lambda net, y, z: F.max_pool2d_with_indices(y, 2)[0]),
    _function("torch.max_pool2d", 2),
    _nn("AvgPool2d", 3, 2, 1),
    _function(f"{_F}avg_pool2d", 2),
    _nn("AdaptiveMaxPool2d", 3),
    _function(f"{_F}adaptive_max_pool2d", (3, 2)),
    Case(f"{_F}adaptive_max_pool2d_with_indices", lambda net, y, z: F.adaptive_max_pool2d_with_indices(y, 3)[0]),
    _nn("AdaptiveAvgPool2d", (3, 2)),
    _function(f"{_F}adaptive_avg_pool2d", 1),
    *(_two_function(path) for path in ("operator.matmul", "torch.matmul")),
    _two_function("operator.imatmul", recorded="operator.matmul"),
    _two_method("matmul"),
    Case("torch.bmm", lambda net, y, z: torch.bmm(y[:, 0], z[:, 1]), inputs=2),
    Case("bmm", lambda net, y, z: y[:, 0].bmm(z[:, 1]), inputs=2),
]


def _operator(name: str, **facts: Any) -> Case:
    """torch.fx records ``operator.iadd(x, y)`` as ``x + y``; the in-place operator occurs in graphs made by hand."""
    return _two_function(f"operator.{name}", recorded=f"operator.{name.removeprefix('i')}", **facts)


def _arithmetic(operators: str, names: str, **facts: Any) -> list[Case]:
    names_in_place = [f"{name}_" for name in names.split()]
    return [
        *(_operator(name, **facts) for name in operators.split()),
        *(_two_function(f"torch.{name}", **facts) for name in names.split()),
        *(_two_method(name, **facts) for name in (*names.split(), *names_in_place)),
    ]


_ELEMENTWISE = [
    *_arithmetic("add iadd", "add"),
    *_arithmetic("sub isub", "sub subtract"),
    *_arithmetic("mul imul", "mul multiply"),
    *_arithmetic("truediv itruediv", "div divide true_divide", is_positive=True),
    *_arithmetic("pow ipow", "pow", is_positive=True),
    Case("operator.pow", lambda net, y, z: y**2, variant="number"),
    *_unary((), "operator.abs torch.abs torch.absolute torch.abs_", "abs absolute abs_ absolute_"),
    *_unary((), "torch.clamp torch.clip torch.clamp_ torch.clip_", "clamp clip clamp_ clip_", (-0.2, 0.3)),
]

_REDUCTIONS = [
    _function("torch.sum", (1, 2)),
    _method("sum", 1, True),
    _function("torch.mean", (2, 3)),
    _method("mean", -1, True),
    *(_two_function(f"torch.{name}") for name in ("max", "min")),
    *(_two_method(name) for name in ("max", "min")),
    Case("torch.max", lambda net, y, z: torch.max(y, 1, keepdim=True)[0], variant="keepdim"),
    Case("max", lambda net, y, z: y.max(dim=2, keepdim=True).values, variant="keepdim"),
    Case("torch.min", lambda net, y, z: torch.min(y, 1)[0], variant="axis"),
    Case("min", lambda net, y, z: y.min(2)[0], variant="axis"),
]

_MOVEMENT = [
    _function("torch.permute", (0, 2, 3, 1)),
    _method("permute", 0, 3, 1, 2),
    *_unary((), "torch.transpose torch.swapaxes torch.swapdims", args=(1, 2)),
    *_unary((), "", "transpose swapaxes swapdims transpose_ swapaxes_ swapdims_", (1, 3)),
    *(
        Case(f"torch.{name}", lambda net, y, z, name=name: getattr(torch, name)([y, z, y], 1), inputs=3)
        for name in ("cat", "concat", "concatenate")
    ),
    Case("torch.stack", lambda net, y, z: torch.stack((y, z), dim=1), inputs=2),
    Case("torch.split", lambda net, y, z: torch.split(y, 2, 1)[1]),
    Case("split", lambda net, y, z: y.split([1, 3], dim=1)[1]),
    _module("torch.nn.Upsample", lambda: nn.Upsample(scale_factor=2)),
    _module("torch.nn.Upsample", lambda: nn.Upsample(scale_factor=2, mode="bilinear"), variant="bilinear"),
    Case(f"{_F}interpolate", lambda net, y, z: F.interpolate(y, size=(12, 9))),
    Case(f"{_F}upsample", lambda net, y, z: F.upsample(y, scale_factor=2), recorded=f"{_F}interpolate"),
    _module("hotwheels.amct_pytorch.nn.SpaceToDepth", lambda: amct_nn.SpaceToDepth(2)),
    _module("hotwheels.amct_pytorch.nn.DepthToSpace", lambda: amct_nn.DepthToSpace(2)),
    *(
        _module(
            f"hotwheels.amct_pytorch.nn.{name}",
            getattr(amct_nn, name),
            lambda net, y, z: net.made(y, z.flatten(1)[:, :18].reshape(-1, 3, 3, 2)),
        )
        for name in ("Warp", "GlobalWarp")
    ),
]

_SHAPE = [
    _function("torch.flatten", 1),
    _method("flatten", 2),
    Case("torch.squeeze", lambda net, y, z: torch.squeeze(F.adaptive_avg_pool2d(y, (1, 2)), 2)),
    *(
        Case(name, lambda net, y, z, name=name: getattr(F.adaptive_avg_pool2d(y, (1, 2)), name)(2))
        for name in ("squeeze", "squeeze_")
    ),
    *_unary((), "torch.unsqueeze", "unsqueeze unsqueeze_", (1,)),
    _function("torch.reshape", (-1, 8, 18)),
    _method("reshape", -1, 4, 36),
    Case("view", lambda net, y, z: y.view(y.size(0), -1)),
]

_FUSED = [
    *_unary((_nn("ReLU", **_FLAT),), f"{_F}relu {_F}relu_ torch.relu", "relu relu_", **_FLAT),
    _function("torch.relu_", recorded=f"{_F}relu_", **_FLAT),
    *_unary((_nn("ReLU6", **_FLAT),), f"{_F}relu6", **_FLAT),
    _nn("Sigmoid", **_FLAT),
    _function(f"{_F}sigmoid", recorded="sigmoid", **_FLAT),
    *_unary((), "torch.sigmoid torch.sigmoid_", "sigmoid sigmoid_", **_FLAT),
    _nn("Tanh", **_FLAT),
    _function(f"{_F}tanh", recorded="tanh", **_FLAT),
    *_unary((), "torch.tanh torch.tanh_", "tanh tanh_", **_FLAT),
    *_unary((_nn("LeakyReLU", 0.2, **_FLAT),), f"{_F}leaky_relu {_F}leaky_relu_", **_FLAT),
    _nn("PReLU", 4, **_FLAT),
    Case(f"{_F}prelu", lambda net, y, z: F.prelu(y, net.slope), **_FLAT),
    Case("torch.prelu", lambda net, y, z: torch.prelu(y, net.slope), recorded=f"{_F}prelu", **_FLAT),
    Case("prelu", lambda net, y, z: y.prelu(net.slope), **_FLAT),
]

_ACTIVATIONS = [
    *_unary((_nn("GELU"),), f"{_F}gelu"),
    _module("hotwheels.amct_pytorch.nn.GELU", amct_nn.GELU),
    *_unary((_nn("Softmax", 1),), f"{_F}softmax torch.softmax", "softmax", (-1,)),
    _nn("Softmax2d"),
    *_unary((_nn("LogSoftmax", 1),), f"{_F}log_softmax torch.log_softmax", "log_softmax", (-1,)),
    *_unary((_nn("ELU"),), f"{_F}elu {_F}elu_"),
    *_unary((_nn("LogSigmoid"),), f"{_F}logsigmoid"),
    *_unary((_nn("Softmin", 1),), f"{_F}softmin", args=(-1,)),
    *_unary((_nn("Tanhshrink"),), f"{_F}tanhshrink"),
    *_unary((_nn("GLU", 1),), f"{_F}glu", args=(-1,)),
    *_unary((_nn("Hardswish"),), f"{_F}hardswish"),
    *_unary((_nn("SiLU"),), f"{_F}silu"),
    *_unary((_nn("Mish"),), f"{_F}mish"),
    *_unary((_nn("Hardtanh", -0.3, 0.2),), f"{_F}hardtanh {_F}hardtanh_"),
    *_unary((_nn("Softsign"),), f"{_F}softsign"),
    *_unary((_nn("Hardsigmoid"),), f"{_F}hardsigmoid"),
]

_NORMS = [
    _nn("LayerNorm", 6),
    _module("hotwheels.amct_pytorch.nn.LayerNorm", lambda: amct_nn.LayerNorm(4)),
    _nn("GroupNorm", 2, 4),
    Case(f"{_F}group_norm", lambda net, y, z: F.group_norm(y, 2, net.slope)),
    _module("torch.nn.InstanceNorm1d", lambda: nn.InstanceNorm1d(4), lambda net, y, z: net.made(y.flatten(2))),
    _nn("InstanceNorm2d", 4),
    _module(
        "torch.nn.InstanceNorm3d", lambda: nn.InstanceNorm3d(2), lambda net, y, z: net.made(y.unflatten(1, (2, 2)))
    ),
    _function(f"{_F}instance_norm"),
    *_unary((_nn("RMSNorm", 6),), f"{_F}rms_norm torch.rms_norm", args=((6,),)),
    _module("torch.nn.RMSNorm", lambda: nn.RMSNorm(6, eps=1e-3), variant="eps"),
    _nn("BatchNorm2d", 4, **_FLAT),
    Case(f"{_F}batch_norm", lambda net, y, z: F.batch_norm(y, net.matrix[0, :4], net.matrix[1, :4].square()), **_FLAT),
    _module("torch.nn.BatchNorm1d", lambda: nn.BatchNorm1d(4), lambda net, y, z: net.made(y.flatten(2)), **_FLAT),
    _nn("SyncBatchNorm", 4, **_FLAT),
]

CASES = (
    *_WEIGHTED, *_SEQUENCES, *_CUBE, *_ELEMENTWISE, *_REDUCTIONS, *_MOVEMENT, *_SHAPE, *_FUSED, *_ACTIVATIONS, *_NORMS,
)  # fmt: skip
