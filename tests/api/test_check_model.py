from __future__ import annotations

import copy
import dataclasses
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx import backend
from hotwheels.amct_pytorch.config.files.tolerant_json import read_json
from tests.support.fx_path import make_config, quantize


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Number(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y / float(y.max())


class Outer(nn.Module):
    """Has a problem inside, and needs its result to be a list."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([one * 2 for one in self.pair(x)])


class Pair(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, x] if x.mean() else [x]


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.blocks = nn.ModuleList(blocks)
        self.rnn = nn.LSTM(4, 4, batch_first=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        x, _ = self.rnn(x.flatten(2).transpose(1, 2))
        return F.hardtanh(self.fc(x))


def test_model_that_can_be_traced(tmp_path: Path) -> None:
    report = amct.check_model(Net())
    assert report.is_static_path_possible
    assert report.is_complete
    assert [layer.name for layer in report.quantizable] == list(_entries(Net(), tmp_path))
    assert {layer.name for layer in report.quantizable if not layer.is_default_enabled} == {"hardtanh"}
    assert {skip.name: skip.reason for skip in report.skipped} == {
        "rnn": "LSTM is not an operation that can be quantized; it runs in float as a whole"
    }


def _entries(model: nn.Module, folder: Path) -> dict[str, object]:
    return read_json(make_config(model, folder))


def test_all_problems_are_reported_at_once() -> None:
    report = amct.check_model(Net(Branch(), Number(), Branch()))
    assert not report.is_static_path_possible
    assert report.is_complete
    branch, number = report.problems
    assert branch.modules == ("blocks.0", "blocks.2")
    assert branch.reason == "control flow that depends on the data or its shape"
    assert "if x.sum() > 0:" in branch.place
    assert Path(__file__).name in branch.place
    assert number.modules == ("blocks.1",)
    assert number.reason == "a traced value used as a Python number or text"
    assert "torch.fx.wrap" in number.rewrite


def test_the_rest_is_reported_beside_the_problems() -> None:
    report = amct.check_model(Net(Branch(), Number()))
    assert [layer.name for layer in report.quantizable][:1] == ["conv"]
    reasons = {skip.name: skip.reason for skip in report.skipped}
    assert reasons["blocks_0"] == reasons["blocks_1"] == "it cannot be traced, see the problems"


def test_what_follows_from_a_problem_is_not_a_problem() -> None:
    report = amct.check_model(Net(Outer()))
    assert [problem.modules for problem in report.problems] == [("blocks.0.pair",)]
    assert not report.is_complete
    assert not report.quantizable
    assert "check again after the changes" in " ".join(str(report).split())


def test_problem_in_the_model_itself() -> None:
    report = amct.check_model(Branch())
    assert [problem.modules for problem in report.problems] == [("",)]
    assert "In the model itself: TraceError" in str(report)


def test_report_is_readable() -> None:
    lines = str(amct.check_model(Net(Branch()))).splitlines()
    assert lines[0] == "Model Net"
    assert "use the dynamic path (create_quant_config, quantize_model, save_model)" in " ".join(lines)
    for expected in (
        "Quantized by default: 4",
        "  torch.nn.Conv2d (1): conv",
        "Quantized if the configuration enables it: 1",
        "  torch.nn.functional.hardtanh (1): hardtanh",
        "  it cannot be traced, see the problems (1): blocks_0",
        "    if x.sum() > 0:",
    ):
        assert expected in lines


def test_report_of_a_good_model_does_not_send_to_the_dynamic_path() -> None:
    text = str(amct.check_model(Net()))
    assert "takes it as it is" in text
    assert "dynamic path" not in text


def test_report_is_frozen() -> None:
    report = amct.check_model(Net())
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.model = "other"  # type: ignore[misc]


def test_the_model_is_not_touched() -> None:
    model = Net(Branch(), nn.MultiheadAttention(4, 2)).train()
    before, names = copy.deepcopy(model.state_dict()), [name for name, _ in model.named_modules()]
    amct.check_model(model)
    assert [name for name, _ in model.named_modules()] == names
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_forward_set_on_an_instance_ends_the_search() -> None:
    """Such a module is looked into whatever its class, so that the problem in it comes again."""
    first, second = Branch(), Branch()
    second.forward = lambda x: x if x.sum() > 0 else -x  # type: ignore[method-assign]
    report = amct.check_model(Net(first, second))
    assert len(report.problems) == 1
    assert not report.is_complete


def test_wrong_argument() -> None:
    with pytest.raises(TypeError, match=r"check_model: argument 'model' must be a torch.nn.Module"):
        amct.check_model("resnet18")  # type: ignore[arg-type]


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.hardtanh(self.conv(x) * 1)


def test_quantized_model(tmp_path: Path) -> None:
    quantized = quantize(Plain(), tmp_path, [(torch.rand(1, 3, 4, 4),)])
    report = amct.check_model(quantized)
    assert report.is_quantized and report.is_static_path_possible
    assert {layer.name: layer.is_default_enabled for layer in report.quantizable} == {
        "conv": True,
        "mul": True,
        "hardtanh": False,
    }
    assert [one.layers for one in report.advice] == [("mul",)]
    assert "It is quantized and calibrated." in str(report)
    assert "\nQuantized: 2\n" in str(report)


def test_quantized_model_which_is_not_calibrated(tmp_path: Path) -> None:
    quantized = amct.create_quant_model_fx(make_config(Plain(), tmp_path), Plain())
    with pytest.raises(amct.CalibrationError, match="2 layers have no parameters: 0 of 1 batches seen by conv, mul"):
        amct.check_model(quantized)


def test_module_around_a_quantized_model_is_refused(tmp_path: Path) -> None:
    quantized = quantize(Plain(), tmp_path, [(torch.rand(1, 3, 4, 4),)])
    with pytest.raises(amct.UnsupportedModelError, match="not a module that contains it"):
        amct.check_model(nn.Sequential(quantized))


def test_advice_in_the_report(tmp_path: Path) -> None:
    """Names, reason and remedies in lines that fit; the yaml as a block, which can be taken out as it stands."""
    report = amct.check_model(Plain())
    text = str(report)
    start = text.index("Advice 1. Operation without effect: mul\n'mul': multiplies by 1.\n")
    block = text[start:].split("\n\n")[0]
    assert max(map(len, text.splitlines())) <= 120
    assert block.splitlines()[-4:] == [
        "Do: Take it out of the model.",
        "Or: Leave it in float:",
        "    skip_layers:",
        "    - mul",
    ]
    assert textwrap.dedent("\n".join(block.splitlines()[-2:])) + "\n" == report.advice[0].yaml


def test_advice_on_the_rest_beside_the_problems() -> None:
    """Nothing is run, since the model cannot be quantized; with inputs or without."""

    class Broken(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.branch = Branch()

        def forward(self, x: Tensor) -> Tensor:
            return self.branch(super().forward(x))

    for inputs in (None, torch.rand(1, 3, 4, 4)):
        report = amct.check_model(Broken(), inputs)
        assert len(report.problems) == 1
        assert [one.layers for one in report.advice] == [("mul",)]


def test_inputs_need_not_be_a_tuple() -> None:
    model = Plain().train()
    image = torch.rand(1, 3, 4, 4)
    assert amct.check_model(model, image) == amct.check_model(model, (image,))
    assert model.training


def test_model_that_is_quantized_on_the_dynamic_path_is_refused(tmp_path: Path) -> None:
    image = torch.rand(1, 3, 4, 4)
    amct.create_quant_config(tmp_path / "config.json", Plain(), image)
    quantized = amct.quantize_model(
        tmp_path / "config.json", tmp_path / "net.onnx", tmp_path / "record.txt", Plain(), image
    )
    with pytest.raises(amct.UnsupportedModelError, match="quantized already"):
        amct.check_model(quantized)


def test_the_report_and_the_calibrated_copy_share_a_trace(monkeypatch):
    traced, trace = [], backend.trace
    monkeypatch.setattr(backend, "trace", lambda *args, **kwargs: traced.append(args) or trace(*args, **kwargs))
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    before = copy.deepcopy(net.state_dict())
    report = amct.check_model(net, torch.rand(2, 3, 8, 8))
    assert not report.problems
    assert report.multiplications is not None
    assert len(traced) == 1
    assert all(torch.equal(before[name], one) for name, one in net.state_dict().items())
