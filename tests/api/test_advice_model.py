"""Advice on how a model is written, which needs no data except for slices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from tests.support.advice_path import Rule, advice_on, broken_rules, configured, is_on, the_advice
from tests.support.fx_path import make_config, quantize


class Between(nn.Module):
    """A function of the test between two convolutions."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.function(self.conv1(x)))


@dataclasses.dataclass(frozen=True)
class Case:
    id: str
    function: Callable[[Tensor], Tensor]
    layer: str
    finding: str = ""


NO_EFFECT = [
    Case("times 1", lambda x: x * 1, "mul", "'mul': multiplies by 1"),
    Case("1 times", lambda x: 1.0 * x, "mul", "'mul': multiplies by 1"),
    Case("method mul", lambda x: x.mul(1), "mul", "'mul': multiplies by 1"),
    Case("in place", lambda x: x.mul_(1), "mul_", "'mul_': multiplies by 1"),
    Case("keyword", lambda x: torch.mul(x, other=1), "mul", "'mul': multiplies by 1"),
    Case("over 1", lambda x: x / 1, "truediv", "'truediv': divides by 1"),
    Case("plus 0", lambda x: x + 0.0, "add", "'add': adds 0"),
    Case("minus 0", lambda x: x - 0, "sub", "'sub': subtracts 0"),
    Case("power 1", lambda x: x**1, "pow_1", "'pow_1': raises to the power 1"),
    Case("sum()", lambda x: sum([x.relu(), x.abs()]), "add", "'add': adds a tensor to 0, as sum() does first"),
]
EFFECT = [
    Case("times 2", lambda x: x * 2, "mul"),
    Case("1 over", lambda x: 1 / (x.abs() + 1), "truediv"),
    Case("0 minus", lambda x: 0 - x, "sub"),
    Case("1 to the power", lambda x: torch.pow(1, x), "pow_1"),
    Case("rounded", lambda x: torch.div(x, 1, rounding_mode="floor"), "div"),
    Case("without sum()", lambda x: x.relu() + x.abs(), "add"),
    Case("size", lambda x: x.reshape(x.shape[0] * 1, -1, 8, 8), "reshape"),
    Case("two tensors", lambda x: x * x, "mul"),
]


@pytest.mark.parametrize("case", NO_EFFECT, ids=lambda case: case.id)
def test_operation_without_effect(case: Case, tmp_path: Path) -> None:
    model = Between(case.function)
    advice = the_advice(model, Rule.NO_EFFECT)
    assert advice.layers == (case.layer,)
    assert advice.finding == case.finding
    on = is_on(configured(model, advice.yaml, tmp_path))
    assert [name for name, enabled in on.items() if not enabled] == [case.layer]


@pytest.mark.parametrize("case", EFFECT, ids=lambda case: case.id)
def test_operation_with_an_effect(case: Case, tmp_path: Path) -> None:
    model = Between(case.function)
    assert case.layer in is_on(make_config(model, tmp_path))
    assert not advice_on(model, Rule.NO_EFFECT)


def test_equal_operations_without_effect_are_one_advice(tmp_path: Path) -> None:
    model = Between(lambda x: (x * 1).relu() * 1)
    advice = the_advice(model, Rule.NO_EFFECT)
    assert advice.layers == ("mul", "mul_1")
    on = is_on(configured(model, advice.yaml, tmp_path))
    assert not on["mul"] and not on["mul_1"] and on["relu"]


def test_what_must_not_be_quantized_beside_it_is_skipped_too(tmp_path: Path) -> None:
    """The reshape has no command of its own and takes the grid of the multiplication behind it (rule 3)."""
    model = Between(lambda x: x.abs().reshape(-1, 4, 8, 8) * 1)
    on = is_on(configured(model, the_advice(model, Rule.NO_EFFECT).yaml, tmp_path))
    assert [name for name, enabled in on.items() if not enabled] == ["reshape", "mul"]
    assert not broken_rules(model, tmp_path / "config.json")


def test_beside_a_convolution_only_the_model_can_change() -> None:
    """A sibling of the CUBE must be quantized, so that the operation without effect cannot be left in float."""

    class Net(Between):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv1(x) + (x * 1).sum()

    advice = the_advice(Net(lambda x: x), Rule.NO_EFFECT)
    assert advice.layers == ("mul",)
    assert advice.yaml is None
    assert [one.text for one in advice.remedies] == ["Take it out of the model"]


def test_layer_that_is_off_is_not_advised(tmp_path: Path, log_lines) -> None:
    model = Between(lambda x: x * 1)
    amct.create_quant_model_fx(configured(model, "skip_layers: [mul]", tmp_path), model.eval())
    assert not [line for line in log_lines.of("INFO") if "Advice" in line]


IMAGE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "index", [(slice(None), slice(0, 4)), (slice(None), slice(None, 9)), (..., slice(0, None))], ids=str
)
def test_slice_that_holds_everything(index: tuple[slice, ...]) -> None:
    model = Between(lambda x: x[index])
    advice = the_advice(model, Rule.NO_EFFECT, IMAGE)
    assert advice.layers == ("getitem",)
    assert advice.yaml is None
    assert not advice_on(model, Rule.NO_EFFECT), "shapes are not known without inputs"


@pytest.mark.parametrize("index", [(slice(None),), (slice(None), [0, 1, 2, 3])], ids=str)
def test_index_without_a_slice_in_the_files(index: tuple[object, ...]) -> None:
    """Of ``x[:]`` the exporter writes nothing; a list of channels is no slice."""
    assert not advice_on(Between(lambda x: x[index]), Rule.NO_EFFECT, IMAGE)


def test_slice_that_cuts() -> None:
    assert not advice_on(Between(lambda x: x[:, :, 1:]), Rule.NO_EFFECT, IMAGE)


class Offline(nn.Module):
    def __init__(self, source: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.source = source
        self.scale = nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return x + self.conv2(self.source(x))


OFFLINE = [
    Case("data", lambda x: x.data, "conv2", "the .data of 'conv1'"),
    Case("behind data", lambda x: x.data.abs() * 2, "conv2", "the .data of 'conv1'"),
]


@pytest.mark.parametrize("case", OFFLINE, ids=lambda case: case.id)
def test_offline_convolution(case: Case, tmp_path: Path) -> None:
    model = Offline(case.function)
    advice = the_advice(model, Rule.OFFLINE_CONVOLUTION)
    assert advice.layers == (case.layer,)
    assert advice.finding == f"The convolution 'conv2' is computed from {case.finding}"
    on = is_on(configured(model, advice.yaml, tmp_path))
    assert [name for name, enabled in on.items() if not enabled] == ["conv2"]


@pytest.mark.parametrize(
    "source",
    [lambda x: x, lambda x: x.detach(), lambda x: x * torch.ones_like(x), lambda x: x.data + x],
    ids=["itself", "detached", "product", "sum"],
)
def test_convolution_that_follows_the_input(source: Callable[[Tensor], Tensor]) -> None:
    assert not advice_on(Offline(source), Rule.OFFLINE_CONVOLUTION)


class OfParameter(Offline):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(x) + self.conv2(self.scale.expand(1, 4, 1, 1))


@pytest.mark.parametrize(
    "net",
    [OfParameter(torch.abs), Offline(torch.ones_like), Offline(lambda x: x.new_zeros(x.shape) + 1)],
    ids=["parameter", "ones_like", "new_zeros"],
)
def test_convolution_of_a_constant_is_not_quantized_anyway(net: nn.Module) -> None:
    assert "conv2" in {one.name for one in amct.check_model(net).skipped}
    assert not advice_on(net, Rule.OFFLINE_CONVOLUTION)


def test_files_read_what_stands_in_front_of_data(tmp_path: Path) -> None:
    """Other exporters write the values of one run, so the advice."""
    quantized = quantize(Offline(lambda x: x.data).eval(), tmp_path, [(IMAGE,)])
    amct.save_quant_model_fx(quantized, tmp_path / "net", IMAGE)
    graph = onnx.load(tmp_path / "net_deploy_model.onnx").graph
    (conv,) = (node for node in graph.node if node.name == "conv2")
    assert conv.input[0] not in {one.name for one in graph.initializer}


@pytest.mark.parametrize(
    ("cut", "call"),
    [
        (lambda x: x.chunk(2, 1), "'chunk' (chunks=2, dim=1)"),
        (lambda x: torch.chunk(x, chunks=2, dim=-3), "'chunk' (chunks=2, dim=-3)"),
    ],
)
def test_chunk(cut: Callable[[Tensor], tuple[Tensor, ...]], call: str) -> None:
    advice = the_advice(Between(lambda x: torch.cat(cut(x)[::-1], 1)), Rule.CHUNK)
    assert advice.layers == ("chunk",)
    assert advice.finding.endswith(f": {call}")
    assert advice.yaml is None, "split is a layer by default"


def test_split_is_the_layer_that_chunk_is_not() -> None:
    report = amct.check_model(Between(lambda x: torch.cat(x.split(2, 1)[::-1], 1)))
    assert not report.advice
    assert "split" in {layer.name for layer in report.quantizable if layer.is_default_enabled}


def test_chunk_of_a_mask_has_nothing_to_quantize() -> None:
    assert not advice_on(Between(lambda x: torch.where((x > 0).chunk(2, 1)[0].any(), x, -x)), Rule.CHUNK)
