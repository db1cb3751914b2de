"""A forward that writes weights (masks, clamps, norms): they are computed in each read, and trained as in eager."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.calls.written_parameter import written
from hotwheels.amct_pytorch.errors import UnsupportedModelError
from tests.support.both_paths import PATHS, saved
from tests.support.whole_way import run_file, take


class _Conv(nn.Conv2d):
    """A convolution whose forward writes its weight."""

    def __init__(self, write: Callable[[Any], None]) -> None:
        super().__init__(3, 6, 3, padding=1)
        mask = torch.ones(6, 3, 3, 3)
        mask[:, :, 1, 1:], mask[:, :, 2] = 0.0, 0.0
        self.register_buffer("mask", mask)
        self._write = write

    def forward(self, x: Tensor) -> Tensor:
        self._write(self)
        return super().forward(x)


class _Net(nn.Module):
    def __init__(self, write: Callable[[Any], None]) -> None:
        super().__init__()
        self.conv, self.norm, self.head = _Conv(write), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def _augmented(conv: Any) -> None:
    conv.weight.data *= conv.mask


def _assigned(conv: Any) -> None:
    conv.weight.data = conv.weight.data * conv.mask


def _renormed(conv: Any) -> None:
    conv.weight.data = torch.renorm(conv.weight.data, p=2, dim=0, maxnorm=0.3)


@torch.no_grad()
def _copied(conv: Any) -> None:
    conv.weight.copy_(conv.weight * conv.mask)


@torch.no_grad()
def _assigned_to_its_name(conv: Any) -> None:
    conv.weight *= conv.mask


def _by_item(conv: Any) -> None:
    conv.weight.data[:, :, 2:] = 0


def _by_places(conv: Any) -> None:
    conv.weight.data[conv.mask == 0] = 0


@torch.no_grad()
def _normalized(conv: Any) -> None:
    conv.weight.div_(conv.weight.abs().amax((1, 2, 3), keepdim=True))


@torch.no_grad()
def _into_itself(conv: Any) -> None:
    torch.mul(conv.weight, conv.mask, out=conv.weight)


_WRITES: dict[str, Callable[[Any], None]] = {
    "data *=": _augmented,
    "data =": _assigned,
    "renorm": _renormed,
    "data.mul_": lambda conv: conv.weight.data.mul_(conv.mask),
    "copy_": _copied,
    "*=": _assigned_to_its_name,
    "clamp_": lambda conv: conv.weight.data.clamp_(-0.05, 0.05),
    "item": _by_item,
    "places": _by_places,
    "part": lambda conv: conv.weight.data[:, :, 2:].zero_(),
    "norm": _normalized,
    "out": _into_itself,
    "masked_fill_": lambda conv: conv.weight.data.masked_fill_(conv.mask == 0, 0.0),
    "bias too": lambda conv: (conv.weight.data.mul_(conv.mask), conv.bias.data.clamp_(-0.1, 0.1)),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", _WRITES)
def test_layer_has_the_written_weight(name: str, path: str, tmp_path: Path) -> None:
    model, x = _Net(_WRITES[name]).eval(), torch.randn(2, 3, 8, 8)
    state = copy.deepcopy(model.state_dict())
    expected = copy.deepcopy(model)(x)
    found = saved(path, model, tmp_path, [x])

    assert all(torch.equal(one, state[key]) for key, one in model.state_dict().items())  # the caller's model
    assert ("conv2d" if path == "fx" else "conv") in found.layers
    found.assert_exact(x)
    amct.enable_quantization(found.model)
    torch.testing.assert_close(found.model(x), expected)


@pytest.mark.parametrize("with_example", [False, True])
@pytest.mark.parametrize("name", _WRITES)
def test_training_writes_the_parameter_as_eager_does(name: str, with_example: bool, tmp_path: Path) -> None:
    model, x = _Net(_WRITES[name]).eval(), torch.randn(4, 3, 8, 8)
    example = {"input_data": (x,)} if with_example else {}
    amct.create_quant_config_fx(tmp_path / "config.json", model, **example)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model, **example)
    for one in (model, quantized):
        optimizer = torch.optim.SGD(one.train().parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        for step in range(3):
            optimizer.zero_grad()
            one(x * (step + 1)).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            one.eval()(x)
    for key, one in model.state_dict().items():
        torch.testing.assert_close(quantized.state_dict()[key], one)


class _Outer(nn.Module):
    """The forward of one module writes the parameters of another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)
        self.register_buffer("table", torch.randn(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for module in (self.conv, self.head):
                module.weight.clamp_(-0.06, 0.06)
            self.norm.weight.clamp_(0.2, 0.8)
            self.table.clamp_(-0.5, 0.5)
        return F.linear(self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3))), self.table.t())


@pytest.mark.parametrize("path", PATHS)
def test_parameters_of_other_modules_and_buffers(path: str, tmp_path: Path) -> None:
    model, x = _Outer().eval(), torch.randn(2, 3, 8, 8)
    expected = copy.deepcopy(model)(x)
    found = saved(path, model, tmp_path, [x])
    assert {"conv", "head"} <= found.layers.keys()
    assert ("linear" in found.layers) == (path == "fx")
    found.assert_exact(x)
    amct.enable_quantization(found.model)
    torch.testing.assert_close(found.model(x), expected)


def _halved(conv: Any) -> None:
    conv.weight.data *= 0.5


def _replaced(conv: Any) -> None:
    conv.weight = nn.Parameter(conv.weight * conv.mask)


def _by_parameters(conv: Any) -> None:
    for one in conv.parameters():
        one.data.clamp_(-0.1, 0.1)


_REFUSED = {
    "halved": (_halved, "changes the parameter 'conv.weight' so that a second call"),
    "replaced": (_replaced, "changes the parameter '(conv.)?weight'.* put(s|ting) another tensor"),
}


@pytest.mark.parametrize("path", ["fx", "fx with input_data", "dynamic"])
@pytest.mark.parametrize("name", _REFUSED)
def test_change_that_goes_on_is_refused(name: str, path: str, tmp_path: Path) -> None:
    write, text = _REFUSED[name]
    model, x = _Net(write).eval(), torch.randn(2, 3, 8, 8)
    with pytest.raises(UnsupportedModelError, match=f"(?s){text}.*parametrize"):
        _configure(model, x, path, tmp_path)


def _configure(model: nn.Module, x: Tensor, path: str, folder: Path) -> None:
    if path == "dynamic":
        amct.create_quant_config(folder / "config.json", model, x)
    else:
        example = {"input_data": (x,)} if path == "fx with input_data" else {}
        amct.create_quant_config_fx(folder / "config.json", model, **example)


class _ReadBefore(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.conv.weight.data.clamp_(-0.1, 0.1)
        return self.conv(x)


class _OfData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.head.bias.data.copy_(x.mean().expand(2))
        return self.head(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize("path", ["fx", "fx with input_data", "dynamic"])
@pytest.mark.parametrize(
    ("make", "text"),
    [(_ReadBefore, "'conv.weight' so that a second call"), (_OfData, "'head.bias' by values of the data")],
)
def test_write_behind_a_read_or_of_data_is_refused(
    make: Callable[[], nn.Module], text: str, path: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModelError, match=text):
        _configure(make().eval(), torch.randn(2, 3, 8, 8), path, tmp_path)


@pytest.mark.parametrize("with_example", [False, True])
def test_parameters_that_are_not_read_as_attributes(with_example: bool, tmp_path: Path) -> None:
    model, x = _Net(_by_parameters).eval(), torch.randn(2, 3, 8, 8)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsupportedModelError, match=r"(?s)'conv\.(weight|bias)', which it has not read.*parametrize"):
        amct.create_quant_config_fx(tmp_path / "config.json", model, **({"input_data": (x,)} if with_example else {}))
    assert all(torch.equal(one, before[key]) for key, one in model.state_dict().items())


@pytest.mark.parametrize("path", ["fx", "fx with input_data", "dynamic"])
def test_rows_of_an_embedding_with_max_norm(path: str, tmp_path: Path) -> None:
    """torch scales the rows that a call reads; a file has the scaled rows of all calls."""
    model = nn.Sequential(nn.Embedding(8, 6, max_norm=0.5), nn.Linear(6, 4)).eval()
    seen, unseen = torch.tensor([0, 1, 2]), torch.tensor([5, 6, 7])
    expected = copy.deepcopy(model)(unseen)
    take(copy.deepcopy(model), [(seen,)], path, tmp_path)
    (found,) = run_file(tmp_path / ("net.onnx" if path == "dynamic" else "net_float_model.onnx"), (unseen,))
    torch.testing.assert_close(found, expected)


def test_difference_of_rounding_is_not_written() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 0.0]))
    assert written(parameter, torch.tensor([1.0 + 2.0**-23, 0.0])) is parameter
    assert parameter.tolist() == [1.0, 0.0]
    written(parameter, torch.tensor([1.0, 2.0**-40]))
    assert parameter.tolist() == [1.0, 2.0**-40]


class _PositionBias(nn.Module):
    """A table that an MLP computes from a buffer, with a ReLU in place, as in torchvision's Swin V2."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.mlp = nn.Sequential(nn.Linear(2, 6), nn.ReLU(inplace=True))
        self.register_buffer("places", torch.randn(5, 2))
        self.register_buffer("index", torch.tensor([4, 0, 2]))

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.mlp(self.places)[self.index].view(3, 6)


def test_state_beside_a_write_of_a_computed_table_is_read(tmp_path: Path) -> None:
    model, x = _PositionBias().eval(), torch.randn(2, 3, 4)
    amct.create_quant_config_fx(tmp_path / "config.json", model, input_data=x)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", model, input_data=x)
    with torch.no_grad():
        torch.testing.assert_close(quantized(x), model(x))
