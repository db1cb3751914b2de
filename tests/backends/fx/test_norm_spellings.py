"""A normalization is folded in every spelling: grids, integers and files equal those of plain BatchNorms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.backend import FxBackend
from hotwheels.amct_pytorch.config.files.tolerant_json import dump_json, read_json
from hotwheels.amct_pytorch.ops.registry import Registry
from tests.support.both_paths import saved
from tests.support.fx_path import make_config, quantize
from tests.support.log_lines import LogLines
from tests.support.nets import shake_batch_norms
from tests.support.twins import Twins, assert_restores, assert_trains, assert_twins


class NormAct(nn.BatchNorm2d):
    """A BatchNorm with the activation inside, which counts its batches itself."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        is_training = True if self.training else self.running_mean is None
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, is_training, self.momentum, self.eps
        )
        return self.act(self.drop(x))


class OwnNorm(nn.Module):
    """A user's own BatchNorm, without affine values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(channels))
        self.register_buffer("var", torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, training=self.training)


class FrozenNorm(nn.Module):
    """As detectors freeze a BatchNorm: all buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.reshape(1, -1, 1, 1), self.bias.reshape(1, -1, 1, 1)
        mean, var = self.running_mean.reshape(1, -1, 1, 1), self.running_var.reshape(1, -1, 1, 1)
        scale = weight * (var + 1e-5).rsqrt()
        return x * scale + (bias - mean * scale)


class Affine(nn.Module):
    """A learned factor and shift, in the operators that spell them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale, self.shift = (
            nn.Parameter(torch.rand(channels, 1, 1) + 0.5),
            nn.Parameter(torch.rand(channels, 1, 1)),
        )
        self.gain = nn.Parameter(torch.tensor([1.5]))

    def forward(self, x: Tensor) -> Tensor:
        return self.shift - self.gain * ((x - self.shift) / self.scale).mul(self.scale.square())


def plain_of(norm: nn.Module, channels: int) -> nn.BatchNorm2d:
    """Returns the BatchNorm that computes what ``norm`` does in evaluation, found from two images."""
    norm.eval()
    with torch.no_grad():
        zeros, ones = torch.zeros(1, channels, 1, 1), torch.ones(1, channels, 1, 1)
        shift = norm.double()(zeros.double()).flatten()
        factor = norm(ones.double()).flatten() - shift
        norm.float()
    made = nn.BatchNorm2d(channels, eps=1e-5)
    made.weight.data, made.bias.data = (factor * (1 + 1e-5) ** 0.5).float(), shift.float()
    return made


class CombinedAffine(Affine):
    """Sums of products in one call, and Python numbers between the members."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addcmul(self.shift, 2 * x - 1, self.scale)
        return torch.addcdiv(self.shift, x, self.scale, value=0.5).sub(0.25) / 1.5 * self.gain


class Net(nn.Module):
    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.first, self.one = nn.Conv2d(4, 6, 3, bias=False), norm(6)
        self.up, self.two = nn.ConvTranspose2d(6, 5, 2, stride=2, groups=1), norm(5)
        self.last = nn.Conv2d(5, 3, 1)
        shake_batch_norms(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.two(self.up(self.one(self.first(x)))))


def plain_net(model: Net) -> nn.Module:
    made = Net(nn.BatchNorm2d)
    made.load_state_dict(model.state_dict(), strict=False)
    act = [nn.ReLU()] if isinstance(model.one, NormAct) else []
    if isinstance(model.one, nn.BatchNorm2d):
        made.one, made.two = (nn.Sequential(plain_batch_norm(one), *act) for one in (model.one, model.two))
    else:
        made.one, made.two = plain_of(model.one, 6), plain_of(model.two, 5)
    return made


def plain_batch_norm(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    made.load_state_dict(norm.state_dict())
    return made


class Perceptron(nn.Module):
    """BatchNorm1d behind Linear, and in front of the last one through a dropout."""

    def __init__(self, is_token: bool) -> None:
        super().__init__()
        self.is_token, self.patch = is_token, nn.Conv2d(5, 5, 1)
        self.first, self.one = nn.Linear(16, 8), nn.BatchNorm1d(8)
        self.second, self.two = nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8)
        self.three, self.drop, self.last = nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
        for norm in (self.one, self.two, self.three):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.uniform_(norm.weight, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2) if self.is_token else x.flatten(1)[:, :16].flatten(1)
        for linear, norm in ((self.first, self.one), (self.second, self.two)):
            x = linear(x)
            x = norm(x.flatten(0, 1)).reshape_as(x) if self.is_token else norm(x)
            x = F.hardswish(x)
        x = x.mean(1).flatten(1) if self.is_token else x
        return self.last(self.drop(self.three(x)))


class PlainPerceptron(nn.Module):
    """The same with the BatchNorms in the Linears."""

    def __init__(self, model: Perceptron) -> None:
        super().__init__()
        self.is_token, self.patch = model.is_token, model.patch
        self.first, self.second = with_norm(model.first, model.one), with_norm(model.second, model.two)
        factor = model.three.weight / (model.three.running_var + model.three.eps).sqrt()
        shift = model.three.bias - model.three.running_mean * factor
        self.last = nn.Linear(8, 3)
        self.last.weight.data = (model.last.weight * factor).detach()
        self.last.bias.data = (model.last.bias + model.last.weight @ shift).detach()

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2) if self.is_token else x.flatten(1)[:, :16].flatten(1)
        for linear in (self.first, self.second):
            x = linear(x)
            x = F.hardswish(x.flatten(0, 1).reshape_as(x) if self.is_token else x)
        return self.last(x.mean(1).flatten(1) if self.is_token else x)


def with_norm(linear: nn.Linear, norm: nn.BatchNorm1d) -> nn.Linear:
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    made = nn.Linear(linear.in_features, linear.out_features)
    made.weight.data = (linear.weight * factor[:, None]).detach()
    bias = 0 if linear.bias is None else linear.bias
    made.bias.data = ((bias - norm.running_mean) * factor + norm.bias).detach()
    return made


class LayerScale(nn.Module):
    """A learned factor per channel behind a Linear, once behind a permutation, as in convolutional transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.fc, self.drop, self.proj = nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 4)
        self.gamma = nn.Parameter(torch.rand(4) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(self.mix(x).permute(0, 2, 3, 1))
        y = self.proj(self.drop(y)).permute(0, 3, 1, 2)
        return x + y * self.gamma.reshape(1, -1, 1, 1)


class PlainLayerScale(nn.Module):
    def __init__(self, model: LayerScale) -> None:
        super().__init__()
        self.mix, self.fc = model.mix, model.fc
        self.proj = nn.Linear(8, 4)
        self.proj.weight.data = (model.proj.weight * model.gamma[:, None]).detach()
        self.proj.bias.data = (model.proj.bias * model.gamma).detach()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj(self.fc(self.mix(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class PreActivation(nn.Module):
    """BatchNorms in front of convolutions without padding, grouped too, where nothing in front of them has a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.first = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2, bias=False)
        self.two, self.second = nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1)
        shake_batch_norms(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.two(F.hardswish(self.first(self.one(x)))))


class PlainPreActivation(nn.Module):
    def __init__(self, model: PreActivation) -> None:
        super().__init__()
        self.first, self.second = in_front(model.one, model.first), in_front(model.two, model.second)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.hardswish(self.first(x)))


class Standardizing(nn.Module):
    """The input is standardized with constants of its type, as torchvision's transforms do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.as_tensor([0.4, 0.5, 0.3, 0.2], dtype=x.dtype, device=x.device).view(-1, 1, 1)
        std = x.new_tensor([0.3, 0.2, 0.5, 0.4])[:, None, None]
        return self.first(x.clone().sub_(mean).div_(std))


class PlainStandardizing(nn.Module):
    def __init__(self, model: Standardizing) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(4, eps=0.0).eval()
        norm.running_mean = torch.tensor([0.4, 0.5, 0.3, 0.2])
        norm.running_var = torch.tensor([0.3, 0.2, 0.5, 0.4]).square()
        self.first = in_front(norm, model.first)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x)


def in_front(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> nn.Conv2d:
    """Returns the convolution of the normalized input, output by output."""
    made = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, groups=conv.groups)
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * factor
    weight, bias = conv.weight.detach().clone(), torch.zeros(conv.out_channels)
    per_group = conv.out_channels // conv.groups
    for output in range(conv.out_channels):
        for index in range(weight.shape[1]):
            channel = output // per_group * weight.shape[1] + index
            bias[output] += (weight[output, index].sum() * shift[channel]).detach()
            weight[output, index] *= factor[channel].detach()
        if conv.bias is not None:
            bias[output] += conv.bias[output].detach()
    made.weight.data, made.bias.data = weight, bias
    return made


NET_LAYERS = {"first": "first", "up": "up", "last": "last"}
PERCEPTRON_LAYERS = {name: name for name in ("flatten_1", "first", "hardswish", "second", "hardswish_1", "last")}
CASES: Mapping[str, Twins] = {
    "BatchNorm with an activation": Twins(
        lambda: Net(NormAct), plain_net, NET_LAYERS, weight_parameters=("one.weight",)
    ),
    "function without affine values": Twins(lambda: Net(OwnNorm), plain_net, NET_LAYERS),
    "frozen": Twins(lambda: Net(FrozenNorm), plain_net, NET_LAYERS, weight_parameters=("first.weight",)),
    "learned factor and shift": Twins(
        lambda: Net(Affine), plain_net, NET_LAYERS, weight_parameters=("one.scale", "one.shift", "two.gain")
    ),
    "sums of products and numbers": Twins(
        lambda: Net(CombinedAffine), plain_net, NET_LAYERS, weight_parameters=("one.scale", "one.shift", "two.gain")
    ),
    "constants made in the forward": Twins(
        Standardizing, PlainStandardizing, {"first": "first"}, weight_parameters=("first.weight",)
    ),
    "layer scale": Twins(
        LayerScale,
        PlainLayerScale,
        {"mix": "mix", "permute": "permute", "fc": "fc", "proj": "proj", "permute_1": "permute_1", "add": "add"},
        weight_parameters=("gamma", "proj.weight"),
    ),
    "in front of a convolution": Twins(
        PreActivation,
        PlainPreActivation,
        {"first": "first", "hardswish": "hardswish", "second": "second"},
        weight_parameters=("one.weight", "two.bias", "first.weight"),
    ),
    "behind a Linear": Twins(
        lambda: Perceptron(is_token=False),
        PlainPerceptron,
        PERCEPTRON_LAYERS,
        input_shape=(4, 4, 3, 3),
        weight_parameters=("one.weight", "three.weight"),
    ),
    "behind a Linear of tokens": Twins(
        lambda: Perceptron(is_token=True),
        PlainPerceptron,
        {**PERCEPTRON_LAYERS, **{name: name for name in ("patch", "flatten", "flatten_2", "mean", "flatten_3")}},
        input_shape=(4, 5, 4, 4),
        weight_parameters=("one.weight", "three.weight"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_folds_as_a_plain_batch_norm(name: str, tmp_path: Path) -> None:
    assert_twins(CASES[name], tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_restores(name: str, tmp_path: Path) -> None:
    assert_restores(CASES[name], tmp_path)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.weight_parameters])
def test_trains(name: str, tmp_path: Path) -> None:
    assert_trains(CASES[name], tmp_path)


def train(model: nn.Module, batches: list[Tensor]) -> None:
    amct.enable_quantization(model, fake_quant=True)
    model.train()
    optimizer = torch.optim.SGD([p for n, p in model.named_parameters() if "amct_layers" not in n], 0.05, momentum=0.9)
    for x in batches:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def test_batch_norm_with_an_activation_trains_like_a_plain_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net(NormAct).eval()
    plain = plain_net(model).eval()
    x = torch.randn(4, 4, 9, 9)
    batches = [torch.randn(4, 4, 9, 9) for _ in range(3)]
    states = []
    for name, one in (("spelled", model), ("plain", plain)):
        (tmp_path / name).mkdir()
        quantized = quantize(one, tmp_path / name, [(x,)])
        train(quantized, batches)
        states.append({key.replace(".0.", "."): value for key, value in quantized.state_dict().items()})
    names = [name for name in states[0] if "amct_layers" not in name]
    assert {"one.running_var", "two.num_batches_tracked", "first.weight", "one.weight"} <= set(names)
    for name in names:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-4, atol=1e-6)
    assert states[0]["one.num_batches_tracked"] == 3


def test_batch_norm_in_front_learns_the_statistics_of_the_quantized_input(tmp_path: Path) -> None:
    torch.manual_seed(0)
    quantized = quantize(PreActivation().eval(), tmp_path, [(torch.randn(4, 4, 9, 9),)])
    x, norm = torch.randn(4, 4, 9, 9), quantized.get_submodule("one")
    before, layer = norm.running_mean.clone(), quantized.quantized_layers["first"]
    amct.enable_quantization(quantized, fake_quant=True)
    quantized.train()(x)
    seen = layer.activation[0].fake_quantize(x).detach()
    torch.testing.assert_close(norm.running_mean, 0.9 * before + 0.1 * seen.mean((0, 2, 3)))


def test_training_output_is_that_of_the_formula(tmp_path: Path) -> None:
    """``conv(bn(Q(x)), Q(w') / factor)``, written out (spec 6.7)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)).eval()
    shake_batch_norms(model)
    quantized = quantize(model, tmp_path, [(torch.randn(4, 4, 9, 9),)])
    amct.enable_quantization(quantized, fake_quant=True)
    x, layer = torch.randn(4, 4, 9, 9), quantized.quantized_layers["_1"]
    norm, conv = model[0], model[1]
    factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    folded = conv.weight.detach() * factor[None, :, None, None]
    scale = folded.abs().amax((1, 2, 3), keepdim=True) / 127
    scale = (1 / (1 / scale).float()).float()  # canonical, spec 4.5
    weight = (folded / scale).round().clamp(-128, 127) * scale / factor[None, :, None, None]
    seen = layer.activation[0].fake_quantize(x).detach()
    centred = (seen - seen.mean((0, 2, 3), keepdim=True)) / (seen.var((0, 2, 3), False, keepdim=True) + norm.eps).sqrt()
    normalized = centred * norm.weight[:, None, None] + norm.bias[:, None, None]
    expected = F.conv2d(normalized, weight, conv.bias)
    torch.testing.assert_close(quantized.train()(x), expected.detach(), rtol=1e-4, atol=1e-5, check_dtype=False)


def test_frozen_function_stays_frozen_in_training(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            norm = self.norm
            return F.batch_norm(self.conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias)

    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 5)
    quantized = quantize(Fixed().eval(), tmp_path, [(x,)])
    amct.enable_quantization(quantized, fake_quant=True)
    before = quantized(x)
    assert torch.equal(quantized.train()(x), before)
    assert torch.equal(quantized.get_submodule("norm").running_mean, torch.zeros(4))


def test_dropout_between_keeps_its_place_in_training(tmp_path: Path) -> None:
    """A dropped channel is the shift of the BatchNorm on the batch's statistics, not zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 1), nn.Dropout2d(0.5), nn.BatchNorm2d(6)).eval()
    quantized = quantize(model, tmp_path, [(torch.randn(8, 4, 5, 5),)])
    assert list(quantized.quantized_layers) == ["_0"]
    amct.enable_quantization(quantized, fake_quant=True)
    result = quantized.train()(torch.randn(8, 4, 5, 5))
    assert not bool((result.flatten(2) == 0).all(-1).any())
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(6), rtol=0, atol=1e-5)


class Unfoldable(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        if kind == "infinite":
            self.norm.running_var[1] = float("nan")

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "front":
            return self.last(self.norm(F.hardswish(x)))
        if self.kind == "alone":
            return F.hardswish(self.norm(F.hardswish(self.conv(x))))
        y = self.conv(x)
        if self.kind == "shared":
            y = self.conv(y)
        z = self.norm(y)
        return z + y if self.kind == "twice" else z


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("twice", "'conv' is read by something else, too"),
        ("shared", "the weight of 'conv_1' is used at several places"),
        ("infinite", "a weight or bias would not be finite"),
        ("front", "'last' behind it pads with zeros, which it would shift"),
        ("alone", "no layer with a weight is next to it, but 'hardswish'"),
    ],
)
def test_batch_norm_that_is_not_folded_says_why(kind: str, reason: str) -> None:
    graph = FxBackend(Unfoldable(kind).eval(), Registry()).graph()
    assert graph["norm"].unfolded_reason == reason


def test_entry_of_an_older_configuration_for_a_folded_node_is_left_out(tmp_path: Path, log_lines: LogLines) -> None:
    model = Net(Affine).eval()
    path = make_config(model, tmp_path)
    document = read_json(path)
    path.write_text(dump_json({**document, "mul": document["first"]}))
    quantized = amct.create_quant_model_fx(path, model)
    assert list(quantized.quantized_layers) == ["first", "up", "last"]
    said = "it belongs to the convolution 'first' in front of it. Its entry is left out."
    assert sum(said in line for line in log_lines.warnings) == 1


class _Tokens(nn.Module):
    """Images become tokens, whose channels a BatchNorm1d normalizes."""

    def __init__(self, flatten: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm1d(8), nn.Linear(8, 4)
        self.flatten = flatten

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.flatten(self.conv(x)))).mean(-1))


_FLATTENED: dict[str, Callable[[Tensor], Tensor]] = {
    "method": lambda x: x.flatten(2),
    "both ends": lambda x: x.flatten(2, -1),
    "keyword": lambda x: torch.flatten(x, start_dim=2),
    "from the end": lambda x: x.flatten(-2),
    "module": nn.Flatten(2),
}


@pytest.mark.parametrize("name", _FLATTENED)
def test_norm_of_flattened_images_is_folded(name: str, tmp_path: Path) -> None:
    model, x = _Tokens(_FLATTENED[name]), torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        model(x)  # statistics other than 0 and 1
    model.eval()
    assert amct.check_model(model, x).batch_norms == ()
    found = saved("fx", model, tmp_path, [x])
    found.assert_exact(x)
    amct.enable_quantization(found.model)
    torch.testing.assert_close(found.model(x), model(x))
