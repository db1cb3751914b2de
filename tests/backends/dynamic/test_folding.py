"""What the dynamic path folds into weights: the same chains as the FX path, made of modules (spec 6.7, 9.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.dynamic.backend import DynamicBackend
from tests.support.dynamic_path import calibrated, check_training, make_config, quantize, run
from tests.support.exact_dynamic import assert_exact
from tests.support.fx_path import run_onnx
from tests.support.nets import shake_batch_norms

X = torch.linspace(-2, 2, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).sin()


class Chain(nn.Module):
    def __init__(self, *chain: nn.Module) -> None:
        super().__init__()
        self.body, self.last = nn.Sequential(*chain), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.body(x)))


class SharedNorm(nn.Module):
    """A BatchNorm behind each of two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.bn, self.last = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.bn(self.second(F.relu(self.bn(self.first(x)))))))


class SharedChain(nn.Module):
    """One convolution and its two BatchNorms, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.inner, self.outer, self.last = nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.conv, self.conv):
            x = layer(x) if layer is self.first else self.outer(self.inner(layer(x)))
            x = F.relu(x)
        return self.last(x)


class NormedLinear(nn.Module):
    """LeViT's Linear_BN."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.c, self.bn = nn.Linear(channels, 6, bias=bias), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(x)
        return self.bn(x.flatten(0, 1)).reshape_as(x)


class Tokens(nn.Module):
    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body, self.last = nn.ModuleList(body), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)[..., :6]
        for layer in self.body:
            x = x + layer(x)
        return self.last(x)


class TransposedNorm(nn.Module):
    """A BatchNorm1d whose input has the tokens last."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.bn = nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.linear(x).transpose(1, 2)).transpose(1, 2)


class LayerScale(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.gamma, self.inplace = nn.Parameter(torch.linspace(-0.5, 1.5, 6)), inplace

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.gamma) if self.inplace else x * self.gamma


class ImageScale(LayerScale):
    def forward(self, x: Tensor) -> Tensor:
        return self.gamma.reshape(1, -1, 1, 1) * x


class Affine(nn.Module):
    """ResMLP's; a shift of 100 would swamp the factor if both were read in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.linspace(1e-5, 1e-3, 6).reshape(1, 1, 6))
        self.beta = nn.Parameter(torch.linspace(99, 100, 6).reshape(1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x)


class Gain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Shift(Gain):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale


class PreActivation(nn.Module):
    """A BatchNorm in front of a convolution without padding; with ``drops`` a dropout is between them."""

    def __init__(self, groups: int = 1, drops: bool = False) -> None:
        super().__init__()
        self.first, self.bn = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.2) if drops else nn.Identity()
        self.conv, self.last = nn.Conv2d(6, 6, 3, groups=groups), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.conv(self.drop(self.bn(F.relu(self.first(x)))))))


class Sequence1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.inner, self.outer = nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6), nn.BatchNorm1d(6)
        self.last = nn.Conv1d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.outer(self.inner(self.conv(x.flatten(2))))))


class Scaled(nn.Module):
    """ConvNeXt's layer scale, a scalar gain and a shift, all in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Linear(6, 6, bias=False), nn.Linear(6, 6)
        self.gamma, self.shift = nn.Parameter(torch.linspace(-1, 1, 6)), nn.Parameter(torch.linspace(0, 1, 6))
        self.gain = nn.Parameter(torch.tensor([0.3]))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.narrow(x) * self.gain + self.shift
        return self.wide(x).permute(0, 2, 1).mul(self.gamma.reshape(1, -1, 1)).permute(0, 2, 1)


class Standardized(nn.Module):
    """Mean and deviation of the input, and a frozen BatchNorm, written out."""

    mean: Tensor
    factor: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, bias=False)
        self.register_buffer("mean", torch.linspace(-0.5, 0.5, channels).reshape(1, -1, 1, 1))
        self.register_buffer("factor", torch.linspace(0.5, 2, 6).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x - self.mean) / self.factor)


NETS: dict[str, Callable[[], nn.Module]] = {
    "two norms": lambda: Chain(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.BatchNorm2d(6)),
    "transposed": lambda: Chain(nn.ConvTranspose2d(3, 6, 2, 2), nn.BatchNorm2d(6), nn.BatchNorm2d(6)),
    "shared norm": SharedNorm,
    "shared chain": SharedChain,
    "tokens": lambda: Tokens(NormedLinear(6, bias=False), NormedLinear(6, bias=True)),
    "tokens last": lambda: Tokens(TransposedNorm()),
    "layer scale": lambda: Tokens(
        nn.Sequential(nn.Linear(6, 6), LayerScale()), nn.Sequential(nn.Linear(6, 6), LayerScale(True))
    ),
    "affine": lambda: Tokens(nn.Sequential(nn.Linear(6, 6, bias=False), Affine())),
    "affine in front": lambda: Tokens(nn.Sequential(Affine(), nn.Linear(6, 6, bias=False))),
    "norm and scale": lambda: Chain(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), ImageScale()),
    "gain in front": lambda: Chain(nn.Conv2d(3, 6, 3), nn.ReLU(), Gain(), nn.Conv2d(6, 6, 3, padding=1)),
    "in a forward": lambda: Tokens(Scaled(), Scaled()),
    "in a forward called twice": lambda: Tokens(*[Scaled()] * 2),
    "in front, in a forward": lambda: Chain(Standardized(3), Standardized(6)),
    "scalar shift": lambda: Chain(nn.Conv2d(3, 6, 3, bias=False), Shift()),
    "padding that repeats values": lambda: Chain(
        nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6)
    ),
    "in front": PreActivation,
    "in front of groups": lambda: PreActivation(groups=3),
    "1-D": Sequence1d,
    "result": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.BatchNorm2d(6)),
}


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = NETS[name]()
    shake_batch_norms(model)
    return model.eval()


@pytest.mark.parametrize("name", NETS)
def test_folds_and_computes_as_the_model(name: str, tmp_path: Path) -> None:
    model = make(name)
    expected = run(model, X)
    quantized, files = calibrated(model, tmp_path, [(X,)])
    files.save(quantized)
    nodes = onnx.load(files.onnx).graph.node
    assert not [node.name for node in nodes if node.op_type in ("BatchNormalization", "Mul")]
    torch.testing.assert_close(torch.from_numpy(run_onnx(files.onnx, X)[0]), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(run_onnx(files.fake_quant, X)[0]), run(quantized, X))
    assert_exact(quantized, files, X)


@pytest.mark.parametrize("name", NETS)
def test_trains_as_the_model(name: str, tmp_path: Path) -> None:
    """One step has the gradients and statistics of the float model, but for the rounding; what it trains is saved."""

    def with_seed(seed: int) -> Tensor:
        spread = 8 if seed == 1 else 2  # of the calibration: statistics of a batch may widen the later ranges
        return spread * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).clamp(-2, 2)

    trained = check_training(lambda: make(name), with_seed, tmp_path, first_weight)
    reference = make(name).train()
    reference(with_seed(2)).square().mean().backward()
    for path, parameter in reference.named_parameters():
        found = trained.get_parameter(path).grad
        assert found is not None and parameter.grad is not None
        if parameter.grad.norm() > 1e-4:
            assert F.cosine_similarity(found.flatten(), parameter.grad.flatten(), 0) > 0.8, path
    for path, statistic in reference.named_buffers():
        if "running" in path:
            torch.testing.assert_close(trained.get_buffer(path), statistic, rtol=0.1, atol=0.1)


def first_weight(model: nn.Module) -> Tensor:
    return next(one.weight for one in model.modules() if isinstance(one, (nn.Conv2d, nn.Conv1d, nn.Linear)))


def test_dropout_behind_a_norm_in_front_still_drops(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = PreActivation(drops=True).eval()
    quantized, files = calibrated(model, tmp_path, [(X,)])
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(files.onnx).graph.node}
    amct.enable_quantization(quantized, fake_quant=True)
    quantized.train()
    outputs = [run(quantized, X) for _ in range(2)]
    assert not torch.equal(*outputs)


class Unfoldable(nn.Module):
    """BatchNorms that are not folded."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv, self.last = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self._kind = kind

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self._kind == "read twice":
            return self.last(self.bn(y).relu() + y)
        if self._kind == "pads":
            return self.last(self.conv(self.bn(y.relu())))
        if self._kind == "one call only":
            return self.last((self.bn(y) + self.bn(y.relu())).relu())
        return self.last(self.bn(y).relu())


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("read twice", "'first' is read by something else, too"),
        ("pads", "'conv' behind it pads with zeros, which it would shift"),
        ("one call only", "'first' is read by something else, too"),
    ],
)
def test_batch_norm_that_is_not_folded_says_why(kind: str, reason: str, tmp_path: Path) -> None:
    model = Unfoldable(kind).eval()
    assert DynamicBackend(model, (X,)).graph()["bn"].unfolded_reason == reason
    expected = run(model, X)
    _, files = calibrated(model, tmp_path, [(X,)])
    torch.testing.assert_close(torch.from_numpy(run_onnx(files.onnx, X)[0]), expected, rtol=1e-4, atol=1e-5)


class Drifting(LayerScale):
    """Changes its state in each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("drift", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.drift.mul_(1.001)
        return x * (self.gamma * self.drift)


class OtherInTraining(LayerScale):
    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else x * self.gamma


class AcrossTokens(LayerScale):
    """Its factors do not belong to the channels of the Linear, whose number is that of the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.reshape(-1, 1)


@pytest.mark.parametrize("cls", [Drifting, OtherInTraining, AcrossTokens])
def test_module_that_is_no_line_of_the_channels_stays(cls: Any, tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.scale = nn.Linear(6, 6), cls()

        def forward(self, x: Tensor) -> Tensor:
            return self.scale(self.linear(x))

    x = X.reshape(2, -1)[:, :36].reshape(2, 6, 6)
    graph = DynamicBackend(Net().eval(), (x,)).graph()
    assert not graph["linear"].folded.behind
    assert list(graph.layers) == ["linear"]


@pytest.mark.parametrize("name", ["two norms", "shared norm", "tokens", "in front"])
def test_updated_statistics_of_all_members_are_saved(name: str, tmp_path: Path) -> None:
    model = make(name)
    files = make_config(model, tmp_path, X, config_defination=_cfg(tmp_path))
    quantized = quantize(model, files, X)
    before = {path: value.clone() for path, value in quantized.named_buffers() if path.endswith("running_mean")}
    amct.update_bn_status(quantized)
    for scale in (1.0, 1.5):
        run(quantized, scale * X)
    amct.update_bn_status(quantized, training=False)
    run(quantized, X)
    assert all(not torch.equal(value, quantized.get_buffer(path)) for path, value in before.items())
    files.save(quantized)
    torch.testing.assert_close(torch.from_numpy(run_onnx(files.fake_quant, X)[0]), run(quantized, X))
    assert_exact(quantized, files, X)


def _cfg(folder: Path) -> Path:
    path = folder / "update.cfg"
    path.write_text("batch_num : 1\nupdate_bn : true\nbn_update_config : { bn_momentum : 0.5 }\n")
    return path


def test_skipped_member_ends_the_chain(tmp_path: Path) -> None:
    model = make("two norms")
    files = make_config(model, tmp_path, X)
    files.change(skip_fusion_layers=["body.2"])
    quantize(model, files, X)
    assert [node.name for node in onnx.load(files.onnx).graph.node if node.op_type == "BatchNormalization"] == [
        "body.2"
    ]
