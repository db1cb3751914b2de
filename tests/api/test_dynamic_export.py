"""Operations that torch's exporter would write wrongly or omit on the dynamic path: right in the files, or reported."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.batches.outputs import output_tensors
from hotwheels.amct_pytorch.backends.writer import table
from hotwheels.amct_pytorch.backends.writer.call import Call
from hotwheels.amct_pytorch.onnx_io.model_file import load_model
from hotwheels.amct_pytorch.oracle.interpreter import Interpreter
from tests.support import fx_path
from tests.support.dynamic_nets import SmallResNet, images
from tests.support.dynamic_path import Files, calibrated, make_config, quantize, run
from tests.support.log_lines import LogLines

X = images(2)[0][0]


class Between(nn.Module):
    """A function between two convolutions."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), function
        self.register_buffer("gain", torch.tensor(2.0))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.a(x)))


def assert_file_follows(model: nn.Module, folder: Path, *other: Tensor, **setting: Any) -> Files:
    """Demands that the fake_quant file computes what the quantized model does, on another input, too."""
    quantized, files = calibrated(model, folder, [(X,)], **setting)
    files.save(quantized)
    step = min(one.scale for layer in files.record.layers.values() for one in layer.activations)
    for x in (X, *other):
        expected = run(quantized, x)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for left, right in zip(fx_path.run_onnx(files.fake_quant, x), expected, strict=True):
            assert fx_path.steps_apart(left, right, step).max() <= 1
    return files


@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize(
    "function",
    [
        lambda h: h * torch.tensor(h.mean()),
        lambda h: h * torch.tensor([h.mean(), 2.0, h.shape[1], h.max()]).sum(),
        lambda h: h + torch.as_tensor([[h.mean()]]),
    ],
)
def test_copies_of_values_are_computed(
    function: Callable[[Tensor], Tensor], tmp_path: Path, log_lines: LogLines
) -> None:
    assert_file_follows(Between(function), tmp_path, 2 * X, -X)
    assert not [line for line in log_lines.warnings if "as a constant" in line]


# --- values that become constants ---


def best(h: Tensor) -> Tensor:
    at = h.mean((0, 2, 3)).topk(4).indices.tolist()
    return torch.cat([h[:, at], h[:, at]], 1)


BAKED: dict[str, Callable[[Tensor], Tensor]] = {
    "float": lambda h: h / float(h.abs().max()),
    "item": lambda h: h / h.abs().max().item(),
    "numpy": lambda h: h - torch.from_numpy(h.numpy().mean(axis=(2, 3), keepdims=True)),
    "tolist": best,
    "branch": lambda h: -h if h.mean() > 0 else h,
    "comparison": lambda h: h if torch.equal(h, h + 1) else -h,
}


@pytest.mark.parametrize("function", BAKED.values(), ids=BAKED)
@pytest.mark.filterwarnings("ignore:To copy construct")
def test_value_read_in_python_is_said_with_its_line(
    function: Callable[[Tensor], Tensor], tmp_path: Path, log_lines: LogLines
) -> None:
    make_config(Between(function), tmp_path, X)
    (warning,) = [line for line in log_lines.warnings if "as a constant" in line]
    number = function.__code__.co_firstlineno + (1 if function is best else 0)
    assert f"test_dynamic_export.py:{number}: " in warning


def sizes(h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    if height % 2 == 0 and int(width) > 1 and len(h):
        h = h.reshape(batch, channels, -1).reshape(h.shape)
    return h + torch.zeros(channels).max().item() + torch.zeros_like(h).sum()


def test_sizes_are_no_values(tmp_path: Path, log_lines: LogLines) -> None:
    make_config(Between(sizes), tmp_path, X)
    assert log_lines.warnings == []


def test_parameters_are_no_values_of_the_input(tmp_path: Path, log_lines: LogLines) -> None:
    class Net(Between):
        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(x * float(self.gain) if self.gain > 1 else x)

    assert_file_follows(Net(lambda h: h), tmp_path, -X)
    assert not [line for line in log_lines.warnings if "constant" in line]


# --- what the exporter does not see ---

UNSEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "data": lambda h: h.data * h,
    "change of a view": lambda h: (h.permute(0, 2, 3, 1).add_(1), h)[1],
    "change of a chunk": lambda h: (h.chunk(2, 1)[0].sigmoid_(), h)[1],
}


@pytest.mark.parametrize("function", UNSEEN.values(), ids=UNSEEN)
def test_file_computes_what_the_model_does(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    assert_file_follows(Between(function), tmp_path, -3 * X)


def test_wrong_translation_is_an_error_that_names_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = make_config(model := Between(torch.neg), tmp_path, X)

    def wrong(call: Call, input: Tensor) -> Any:
        return call.op("Abs", call.value(input))

    monkeypatch.setitem(table._HANDLERS, "neg", (wrong, inspect.signature(wrong)))
    with pytest.raises(
        amct.ExportError, match=r"output 'output' differs by .* input 0 of layer 'b', made by .*\(Abs\)"
    ):
        quantize(model, files, X)
    assert not files.onnx.exists()


def test_forward_of_the_example_leaves_nothing_in_the_copy(tmp_path: Path) -> None:
    class Counts(SmallResNet):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.seen: list[int] = []

        def forward(self, image: Tensor) -> Tensor:
            self.count += 1
            self.seen.append(len(self.seen))
            return super().forward(image)

    model = Counts()
    state = torch.random.get_rng_state()
    quantized = quantize(model, make_config(model, tmp_path, X), X)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert float(quantized.count) == 0 and quantized.seen == []
    run(quantized, X)
    assert float(quantized.count) == 1 and quantized.seen == [0]
    assert float(model.count) == 0 and model.seen == []


# --- what a model returns ---


@dataclasses.dataclass
class Both:
    """A result with names, and something that is no tensor."""

    first: Tensor
    second: Tensor
    note: str = "none"


RESULTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "one tensor twice": lambda x, h: (h, h * 2, h),
    "an input twice": lambda x, h: (x, h, x),
    "a list in a tuple": lambda x, h: (h, [h + 1, (h,)]),
    "a dict with a number": lambda x, h: {"b": h, "n": 3, "a": h * 2, "none": None},
    "a dataclass": lambda x, h: Both(h, h + 1),
}


class Returns(Between):
    def __init__(self, result: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__(torch.relu)
        self.result = result

    def forward(self, x: Tensor) -> Any:
        return self.result(x, super().forward(x))


@pytest.mark.parametrize("is_named", [False, True])
@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_every_output_has_a_name_of_its_own(
    result: Callable[[Tensor, Tensor], Any], is_named: bool, tmp_path: Path
) -> None:
    model = Returns(result)
    count = len(output_tensors(run(model, X)))
    names = ["left", "middle", "right"][:count] if is_named else [f"output_{index}" for index in range(count)]
    quantized, files = calibrated(model, tmp_path, [(X,)], output_names=names if is_named else None)
    files.save(quantized)
    expected = output_tensors(run(quantized, X))
    for path in (files.onnx, files.fake_quant, files.deploy_pair[0]):
        assert [value.name for value in load_model(path).graph.outputs] == names
    for left, right in zip(fx_path.run_onnx(files.fake_quant, X), expected, strict=True):
        assert fx_path.steps_apart(left, right, files.record.layers["b"].activations[0].scale).max() <= 1
    amct.enable_quantization(quantized, real_quant=True)
    found = Interpreter(*files.deploy_pair).run({"x": X.numpy()}).outputs.values()
    for left, right in zip(found, output_tensors(run(quantized, X)), strict=True):
        assert torch.equal(torch.from_numpy(left), right)


# --- paddings ---


@pytest.mark.parametrize("kernel", [3, 4, (3, 2)])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_paddings_stand_in_the_files_in_numbers(kernel: Any, dilation: int, padding: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, kernel, padding=padding, dilation=dilation), nn.ReLU(), nn.Conv2d(4, 2, 1))
    files = assert_file_follows(model.eval(), tmp_path, torch.randn(2, 3, 8, 8))
    for path in (files.onnx, files.fake_quant, files.deploy_pair[0]):
        nodes = [node for node in load_model(path).graph if node.op_type == "Conv"]
        assert len(nodes) == 2 and not any("auto_pad" in node.attributes for node in nodes)


# --- recurrent modules ---


class Recurrent(nn.Module):
    """A recurrent module between two layers, its states among the results."""

    def __init__(self, module: nn.Module, width: int) -> None:
        super().__init__()
        self.before, self.recurrent, self.after = nn.Conv2d(3, 6, 1), module, nn.Linear(width, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found, states = self.recurrent(self.before(x).flatten(2).transpose(1, 2))
        states = states[0] if isinstance(states, tuple) else states
        return self.after(found), states * 2


RECURRENT: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "GRU": (lambda: nn.GRU(6, 5, batch_first=True), 5),
    "LSTM": (lambda: nn.LSTM(6, 5, batch_first=True), 5),
    "RNN": (lambda: nn.RNN(6, 5, batch_first=True, nonlinearity="relu"), 5),
    "two layers, both directions": (lambda: nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True), 10),
    "without a bias": (lambda: nn.GRU(6, 5, bias=False), 5),
}


@pytest.mark.parametrize(("make", "width"), RECURRENT.values(), ids=RECURRENT)
def test_recurrent_modules_run_in_real_quant(make: Callable[[], nn.Module], width: int, tmp_path: Path) -> None:
    model = Recurrent(make(), width).eval()
    quantized, files = calibrated(model, tmp_path, [(X,)])
    files.save(quantized)
    amct.enable_quantization(quantized, real_quant=True)
    found = Interpreter(*files.deploy_pair).run({"x": X.numpy()}).outputs.values()
    for left, right in zip(found, run(quantized, X), strict=True):
        torch.testing.assert_close(torch.from_numpy(left), right, rtol=0, atol=0)
    amct.enable_quantization(quantized, fake_quant=True)
    run(quantized, X)
    assert "forward" not in vars(quantized.recurrent)


# --- what the model stands in ---


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "torch.compile": torch.compile,
    "SyncBatchNorm": nn.SyncBatchNorm.convert_sync_batchnorm,
    "half": lambda model: model.half(),
    "bfloat16": lambda model: model.bfloat16(),
    "float64": lambda model: model.double(),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_model_inside_a_wrapper_or_of_another_type_is_taken(kind: str, tmp_path: Path) -> None:
    model = WRAPPED[kind](plain())
    types = {one.dtype for one in model.parameters()}
    x = X.to(next(iter(types)))
    quantized, files = calibrated(model, tmp_path, [(x,)])
    assert {one.dtype for one in model.parameters()} == types
    result = run(quantized, x)
    assert result.dtype == torch.float32
    files.save(quantized)
    found = torch.from_numpy(fx_path.run_onnx(files.fake_quant, x.float())[0])
    torch.testing.assert_close(found, result, rtol=1e-4, atol=1e-4)
    config, record = tmp_path / "retrain.json", tmp_path / "retrained.txt"
    amct.create_quant_retrain_config(config, model, x, None)
    trained = amct.create_quant_retrain_model(config, model, record, x)
    run(trained.eval(), x)
    run(trained, x)
    amct.save_quant_retrain_model(config, trained, record, str(tmp_path / "trained" / "model"), x)


@pytest.mark.parametrize(
    ("wrap", "text"),
    [
        (lambda model: torch.jit.trace(model, X), "Pass the module it was made from"),
        (lambda model: model.to("meta"), "Load the weights before it is quantized"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_model_that_cannot_be_taken_is_refused_with_what_to_pass(
    wrap: Callable[[nn.Module], nn.Module], text: str, tmp_path: Path
) -> None:
    with pytest.raises(amct.UnsupportedModelError, match=text):
        make_config(wrap(plain()), tmp_path, X)
