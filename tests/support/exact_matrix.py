"""The matrix of small nets: operation x bits x shape x geometry x grids x values, as values that hypothesis draws."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from hotwheels.amct_pytorch.config.files.tolerant_json import dump_json, read_json
from tests.support.fx_path import calibrate


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Of a window; channels are multiples of ``groups``."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    extra: int  # output_padding of a transposed convolution, ceil_mode and count_include_pad of a pooling
    has_bias: bool

    @property
    def output_padding(self) -> tuple[int, ...]:
        return tuple(min(self.extra, step - 1) for step in self.stride)


@dataclasses.dataclass(frozen=True)
class Case:
    """One net: a first layer, the operation, and an elementwise layer that quantizes its result."""

    operation: str
    first: str  # what stands in front of the operation
    data_bits: tuple[int, int, int]  # of the three layers
    weights: str
    shape: tuple[int, int, int, int]
    geometry: Geometry
    grid: str
    spread: float
    shift: float
    seed: int

    @property
    def fits(self) -> bool:
        """Whether torch takes the geometry at all."""
        g, size = self.geometry, self.shape[2:]
        span = [d * (k - 1) + 1 for k, d in zip(g.kernel, g.dilation, strict=True)]
        if "pool" in self.operation and any(2 * p > k for p, k in zip(g.padding, g.kernel, strict=True)):
            return False
        if self.operation == "conv_transpose":
            terms = zip(size, g.stride, g.padding, span, g.output_padding, strict=True)
            return all((s - 1) * step - 2 * p + w + extra > 0 for s, step, p, w, extra in terms)
        return all(s + 2 * p >= w for s, p, w in zip(size, g.padding, span, strict=True))


_GEOMETRIES = st.builds(
    Geometry,
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 2), (1, 3), (5, 2)]),
    stride=st.sampled_from([(1, 1), (2, 2), (1, 3)]),
    padding=st.sampled_from([(0, 0), (1, 1), (0, 1), (2, 1)]),
    dilation=st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 2)]),
    groups=st.sampled_from([1, 1, 2, 4]),
    extra=st.integers(0, 3),
    has_bias=st.booleans(),
)
WEIGHTS: Mapping[str, Mapping[str, Any]] = {
    "uniform 8": {"quantizer": "ArqWeightFakeQuantize", "quantizer_args": {"observer": "ArqObserver", "num_bits": 8}},
    "uniform 4": {"quantizer": "ArqWeightFakeQuantize", "quantizer_args": {"observer": "ArqObserver", "num_bits": 4}},
    "per tensor": {
        "quantizer": "ArqWeightFakeQuantize",
        "quantizer_args": {"observer": "ArqObserver", "num_bits": 8, "channel_wise": False},
    },
    "SNQ": {"quantizer": "SnqWeightFakeQuantize", "quantizer_args": {"observer": "SnqObserver", "num_bits": 4}},
    "LNQ": {"quantizer": "LnqFakeQuantize", "quantizer_args": {"observer": "SnqObserver", "num_bits": 4}},
}

# --- the operation; ``a`` and ``b`` are two results [N, C, H, W] ---

_UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "pow 1.7": lambda a: torch.pow(a.abs() + 0.3, 1.7),
    "pow 2": lambda a: a**2,
    "scalars": lambda a: (a * 0.1 + 0.7) / 1.3 - 0.9,
    "abs": lambda a: a.abs(),
    "no-ops": lambda a: a.contiguous().float().clone().view(a.shape).abs(),
    "flat no-op": lambda a: torch.flatten(a, 0, 0).detach().to(torch.float32),
    "pool indices": lambda a: F.max_pool2d(a, (1, 2), return_indices=True)[0],
    "softplus": lambda a: F.softplus(a),
    "pad": lambda a: F.pad(a, (1, 0, 2, 1), value=0.3),
    "roll": lambda a: torch.roll(a, (1, -1), (2, 3)),
    "where": lambda a: torch.where(a > 0.1, a, 0.3 * a),
    "slice": lambda a: a[..., ::2] + 0.1,
    "normalize": lambda a: F.normalize(a, dim=1),
    "group_norm": lambda a: F.group_norm(a, 2),
    "chunk": lambda a: a.chunk(2, 1)[1] * a.chunk(2, 1)[0],
    "sqrt": lambda a: (a.abs() + 1e-3).sqrt(),
    "rsqrt": lambda a: torch.rsqrt(a.abs() + 1e-3),
    "exp": lambda a: torch.exp(-a.abs()),
    "clamp": lambda a: torch.clamp(a, -0.37, 0.61),
    "sum": lambda a: a.sum((1, 2)),
    "mean": lambda a: a.mean((2, 3)),
    "max": lambda a: torch.max(a, 1, keepdim=True)[0],
    "min": lambda a: torch.min(a, 2)[0],
    "permute": lambda a: a.permute(0, 2, 3, 1),
    "split": lambda a: a.split([1, a.shape[1] - 1], dim=1)[1],
    "interpolate nearest": lambda a: F.interpolate(a, scale_factor=2),
    "interpolate bilinear": lambda a: F.interpolate(a, scale_factor=2, mode="bilinear"),
    "interpolate aligned": lambda a: F.interpolate(a, size=(7, 5), mode="bilinear", align_corners=True),
    "interpolate bicubic": lambda a: F.interpolate(a, scale_factor=2, mode="bicubic"),
    "flatten": lambda a: a.flatten(1),
    "relu": lambda a: a.relu(),
    "relu6": lambda a: F.relu6(a),
    "sigmoid": lambda a: a.sigmoid(),
    "tanh": lambda a: a.tanh(),
    "leaky_relu": lambda a: F.leaky_relu(a, 0.13),
    "gelu": lambda a: F.gelu(a),
    "gelu tanh": lambda a: F.gelu(a, approximate="tanh"),
    "softmax": lambda a: a.softmax(1),
    "log_softmax": lambda a: a.log_softmax(-1),
    "elu": lambda a: F.elu(a, 0.7),
    "hardswish": lambda a: F.hardswish(a),
    "hardsigmoid": lambda a: F.hardsigmoid(a),
    "silu": lambda a: F.silu(a),
    "mish": lambda a: F.mish(a),
    "logsigmoid": lambda a: F.logsigmoid(a),
    "hardtanh": lambda a: F.hardtanh(a, -0.3, 0.2),
    "softsign": lambda a: F.softsign(a),
    "tanhshrink": lambda a: F.tanhshrink(a),
    "glu": lambda a: F.glu(a, 1),
    "layer_norm": lambda a: F.layer_norm(a, a.shape[-1:]),
}
_BINARY: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (b.abs() + 1.0),
    "maximum": lambda a, b: torch.max(a, b),
    "cat": lambda a, b: torch.cat([a, b, a], 1),
    "stack": lambda a, b: torch.stack([a, b], 1),
    "matmul": lambda a, b: a @ b.transpose(-1, -2),
    "bmm": lambda a, b: torch.bmm(a[:, 0], b[:, 1].transpose(1, 2)),
    "attention": lambda a, b: (a @ b.transpose(-1, -2) * 0.17).softmax(-1) @ b,
}
_MODULES = (
    "conv", "conv", "conv_transpose", "conv same", "linear 2d", "linear 4d", "max_pool", "avg_pool",
    "adaptive_avg_pool", "adaptive_max_pool", "global pool", "batch_norm", "layer_norm module", "prelu", "conv relu",
    "conv bn silu", "se", "constant add", "constant table",
)  # fmt: skip
OPERATIONS = (*_MODULES, *_UNARY, *_BINARY)

CASES = st.builds(
    Case,
    operation=st.sampled_from(OPERATIONS),
    first=st.sampled_from(["conv", "relu", "input", "pool"]),
    data_bits=st.tuples(*[st.sampled_from([8, 8, 4, 16, 9, 10, 11, 12, 13, 14, 15])] * 3),
    weights=st.sampled_from(["uniform 8", "uniform 8", "uniform 4", "per tensor", "SNQ", "LNQ"]),
    shape=st.tuples(st.integers(1, 3), st.sampled_from([4, 8]), st.sampled_from([1, 4, 7]), st.sampled_from([2, 5, 8])),
    geometry=_GEOMETRIES,
    grid=st.sampled_from(["calibrated", "calibrated", "power of two"]),
    spread=st.sampled_from([1.0, 1.0, 0.01, 40.0, 1e-5, 1e5]),
    shift=st.sampled_from([0.0, 0.0, 0.7, -3.0]),
    seed=st.integers(0, 2**20),
).filter(lambda case: case.fits)


class Net(nn.Module):
    """``first`` twice, the operation, ``* 0.5``."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        channels = case.shape[1]
        self.left, self.right = _first(case.first, channels), _first(case.first, channels)
        self.op = _module(case)
        self.table = nn.Parameter(torch.randn(channels, 1, 1))
        self._unary, self._binary = _UNARY.get(case.operation), _BINARY.get(case.operation)
        self._takes_table = case.operation.startswith("constant")
        self._flattens = case.operation == "linear 2d"

    def forward(self, x: Tensor) -> Tensor:
        a = self.left(x)
        if self._unary is not None:
            result = self._unary(a)
        elif self._binary is not None:
            result = self._binary(a, self.right(x))
        elif self._takes_table:
            result = a + torch.exp(self.table * 0.3) * 1.1
        else:
            result = self.op(a.flatten(1) if self._flattens else a)
        return result * 0.5


def _first(kind: str, channels: int) -> nn.Module:
    if kind == "conv":
        return nn.Conv2d(channels, channels, 1)
    if kind == "relu":
        return nn.Sequential(nn.Conv2d(channels, channels, 1, groups=2), nn.BatchNorm2d(channels), nn.ReLU())
    return nn.AvgPool2d(1) if kind == "pool" else nn.Identity()


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze, self.excite = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(F.silu(self.squeeze(self.pool(x)))).sigmoid()


def _module(case: Case) -> nn.Module | None:
    g, channels = case.geometry, case.shape[1]
    width = math.prod(case.shape[1:])
    window = {"stride": g.stride, "padding": g.padding}
    out = 3 * g.groups
    makers: Mapping[str, Callable[[], nn.Module]] = {
        "conv": lambda: nn.Conv2d(
            channels, out, g.kernel, **window, dilation=g.dilation, groups=g.groups, bias=g.has_bias
        ),
        "conv_transpose": lambda: nn.ConvTranspose2d(
            channels, out, g.kernel, **window, dilation=g.dilation, groups=g.groups, bias=g.has_bias,
            output_padding=g.output_padding,
        ),
        "conv same": lambda: nn.Conv2d(channels, out, (3, 2), padding="same", groups=g.groups, dilation=g.dilation),
        "linear 2d": lambda: nn.Linear(width, 5, bias=g.has_bias),
        "linear 4d": lambda: nn.Linear(case.shape[3], 5, bias=g.has_bias),
        "max_pool": lambda: nn.MaxPool2d(g.kernel, **window, dilation=g.dilation, ceil_mode=g.extra > 1),
        "avg_pool": lambda: nn.AvgPool2d(
            g.kernel, **window, ceil_mode=g.extra > 1, count_include_pad=bool(g.extra % 2)
        ),
        "adaptive_avg_pool": lambda: nn.AdaptiveAvgPool2d((1, 1) if g.extra else (case.shape[2], 1)),
        "adaptive_max_pool": lambda: nn.AdaptiveMaxPool2d((1, 1) if g.extra else (case.shape[2], 1)),
        "global pool": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)),
        "batch_norm": lambda: nn.Sequential(nn.Hardswish(), nn.BatchNorm2d(channels)),
        "layer_norm module": lambda: nn.LayerNorm(case.shape[3]),
        "prelu": lambda: nn.Sequential(nn.Hardswish(), nn.PReLU(channels)),
        "conv relu": lambda: nn.Sequential(nn.Conv2d(channels, 4, 1, bias=g.has_bias), nn.ReLU6()),
        "conv bn silu": lambda: nn.Sequential(nn.Conv2d(channels, 4, 1), nn.BatchNorm2d(4), nn.SiLU(inplace=True)),
        "se": lambda: _SqueezeExcite(channels),
    }  # fmt: skip
    return makers[case.operation]() if case.operation in makers else None


def quantized_net(case: Case, folder: Path) -> QuantGraphModule:
    """The net of ``case``, calibrated."""
    torch.manual_seed(case.seed)
    model = Net(case).eval()
    randomize(model)
    config = folder / "config.json"
    amct.create_quant_config_fx(config, model)
    document = read_json(config)
    for position, (name, layer) in enumerate(document.items()):
        _configure(case, layer, case.data_bits[min(position, 2)], name)
    config.write_text(dump_json(document))
    quantized = amct.create_quant_model_fx(config, model)
    calibrate(quantized, [(data(case),), (data(case),)])
    return quantized


def data(case: Case) -> Tensor:
    return torch.randn(case.shape) * case.spread + case.shift * case.spread


def _configure(case: Case, layer: dict[str, Any], num_bits: int, name: str) -> None:
    layer["quant_enable"] = True
    for at, entry in enumerate(layer["activation_quant_params"]):
        if case.grid == "calibrated" or entry["quantizer_args"].get("with_offset") is False or "matmul" in name:
            # The second operand of a matmul is the weight: 8 bits, without offset.
            entry["quantizer_args"]["num_bits"] = 8 if at and ("matmul" in name or "bmm" in name) else num_bits
        else:
            # A step that is a power of two makes ties the rule: they show which way is rounded.
            step = 2.0 ** round(math.log2(8 * case.spread * 2.0**-num_bits))
            offset = 0 if "linear" in case.operation or "bmm" in name else case.seed % 7 - 3
            entry.clear()
            entry |= {
                "quantizer": "FixedFakeQuantize",
                "quantizer_args": {"scale": step, "zero_point": offset, "num_bits": num_bits},
            }
    if "weight_quant_params" in layer:
        layer["weight_quant_params"] = WEIGHTS[case.weights]


def randomize(model: nn.Module) -> None:
    """Statistics and parameters of the normalizations as in a trained net."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
