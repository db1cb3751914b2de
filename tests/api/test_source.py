"""graph_to_dynamic_module: the file computes the same as the graph, and shows the origin of errors."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import linecache
import math
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.fx.quant_graph_module import QuantGraphModule
from hotwheels.amct_pytorch.errors import ConfigError, UnsupportedModelError
from tests.support import attention_nets
from tests.support.exact_nets import NETS
from tests.support.fx_path import CONFIG, make_config, quantize, run_fake, run_float, run_real

torch.fx.wrap("len")


@torch.fx.wrap
def scaled(x: Tensor, factor: float) -> Tensor:
    return x.sigmoid() * factor / math.sqrt(len(x))


class Net(nn.Module):
    """A convolution called twice, a folded BatchNorm, a Sequential, a wrapped function, a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.layers = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.fc = nn.Linear(8, 4)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("table", torch.randn(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.norm(self.conv(x)))
        x = F.max_pool2d(self.layers(x), 2).mean((2, 3))
        return scaled(self.fc(x), 2.0) * math.sqrt(len(x)) + self.table


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8)


@pytest.fixture
def graph(tmp_path: Path) -> QuantGraphModule:
    """``Net`` quantized and calibrated."""
    return quantize(Net().eval(), tmp_path, [(images(),)])


def leaves(result: object) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def assert_same(left: nn.Module, right: nn.Module, *inputs: Tensor) -> None:
    for run in (run_float, run_fake, run_real):
        pairs = zip(leaves(run(left, *inputs)), leaves(run(right, *inputs)), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs), run.__name__


QUANTIZED: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "net": (Net, images),
    "yolo": (NETS["yolo"], lambda: torch.randn(1, 3, 32, 32)),
    "unet": (NETS["unet"], lambda: torch.randn(1, 3, 32, 32)),  # F.max_pool2d: pickle does not find it by its name
    "attention": (attention_nets.NETS["vit"], lambda: attention_nets.data("vit")),
    "masked attention": (attention_nets.NETS["masked"], lambda: attention_nets.data("masked")),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_model_from_source_computes_the_same(name: str, tmp_path: Path) -> None:
    make, data = QUANTIZED[name]
    graph = amct.create_quant_model_fx(make_config(model := make().eval(), tmp_path), model)
    module = amct.graph_to_dynamic_module(graph, tmp_path / "debug")
    x = data()
    for one in (graph, module):  # calibrated apart: observers work as well
        amct.enable_quantization(one, calibration=True)
        one(x)
    assert_same(module, graph, x)


def test_files_saved_from_source_are_those_of_the_graph(graph, tmp_path):
    module = amct.graph_to_dynamic_module(graph, tmp_path / "debug")
    x = images()
    amct.save_quant_model_fx(graph, tmp_path / "a" / "net", x)
    amct.save_quant_model_fx(module, tmp_path / "b" / "net", x)
    written = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(written) == 7  # the six files of a save and the manifest
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == written
    for name in written:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_state_is_complete_and_a_copy(graph, tmp_path):
    graph.train()
    amct.freeze_batch_norm(graph)
    before = copy.deepcopy(graph.state_dict())
    module = amct.graph_to_dynamic_module(graph, tmp_path / "debug")

    assert list(module.state_dict()) == list(before)
    assert module.train().training and not module.norm.training
    shared = module.get_submodule("layers.1")
    layers = [module.amct_layers.layers_1, module.amct_layers.layers_3]
    assert all(shared.weight is layer.call.function.weight for layer in layers)  # called twice, one weight

    amct.enable_quantization(module, fake_quant=True)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    module(images()).square().sum().backward()
    optimizer.step()
    assert any(not torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in graph.state_dict().items())


def test_module_from_source_can_be_copied_and_converted_again(graph, tmp_path):
    module = amct.graph_to_dynamic_module(graph, tmp_path / "debug")
    again = amct.graph_to_dynamic_module(copy.deepcopy(module), tmp_path / "debug", "Again")
    assert [path.name for path in sorted((tmp_path / "debug").iterdir()) if path.is_file()] == [
        "__init__.py", "module.py", "state.pt",
    ]  # fmt: skip
    assert "class Again(" in (tmp_path / "debug" / "module.py").read_text()
    assert_same(again, graph, images())


# --- where an error is ---


def test_error_shows_the_line_in_the_file_and_the_one_it_comes_from(graph, tmp_path):
    module = amct.graph_to_dynamic_module(graph, tmp_path / "debug")
    module.table = torch.ones(3)  # 4 + 3 channels
    amct.enable_quantization(module, fake_quant=True)
    with pytest.raises(RuntimeError, match="must match") as raised:
        module(images())

    file = str(tmp_path / "debug" / "module.py")
    (frame,) = [one for one in traceback.extract_tb(raised.tb) if one.filename == file]
    assert frame.line is not None and "self.amct_layers.add(" in frame.line
    comments = [line for line in Path(file).read_text().splitlines()[: frame.lineno] if "# File: " in line]
    lines, start = inspect.getsourcelines(Net.forward)
    assert f"{__file__}:{start + 3} in forward, code: {lines[3].strip()}" in comments[-1]


def test_error_in_real_quant_shows_the_user_line(graph):
    graph.table = torch.ones(3)
    amct.enable_quantization(graph, real_quant=True)
    graph.amct_layers.mean.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as raised, torch.no_grad():
        graph(images())
    lines, start = inspect.getsourcelines(Net.forward)
    text = str(raised.value)
    assert f'"{__file__}", line {start + 2}, in forward\n    {lines[2].strip()}' in text


def test_edited_file_runs_in_float_calibration_and_fake_quant(graph, tmp_path, monkeypatch, capsys):
    amct.graph_to_dynamic_module(graph, tmp_path / "debugged")
    file = tmp_path / "debugged" / "module.py"
    line = next(line for line in file.read_text().splitlines() if " mean = " in line)
    file.write_text(file.read_text().replace(line, f"{line}\n    print('mean', tuple(mean.shape))"))
    linecache.checkcache(str(file))
    monkeypatch.syspath_prepend(tmp_path)

    from debugged import FxModule  # type: ignore[import-not-found]

    module = FxModule()
    assert_same(module, graph, images())
    assert capsys.readouterr().out == "mean (2, 8)\n" * 2  # real_quant follows the graph


def test_file_stands_alone_in_another_process(graph, tmp_path):
    x = images()
    expected = run_fake(graph, x)
    amct.graph_to_dynamic_module(graph, tmp_path / "debug")
    torch.save(x, tmp_path / "x.pt")
    program = (
        "import torch; from debug import FxModule; model = FxModule();"
        "torch.save(model(torch.load('x.pt')).detach(), 'y.pt')"
    )
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": f"{root}:{tmp_path}", "AMCT_LOG_LEVEL": "ERROR", "PATH": ""}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=120)
    assert torch.equal(torch.load(tmp_path / "y.pt"), expected)


# --- float graphs ---


def test_float_graph_becomes_a_module_to_be_quantized(tmp_path):
    model = Net().eval()
    module = amct.graph_to_dynamic_module(fx.symbolic_trace(model), tmp_path / "debug")
    assert not isinstance(module, fx.GraphModule) and not module.training
    x = images()
    assert torch.equal(module(x), model(x))
    quantized = quantize(module, tmp_path, [(x,)])
    found = (tmp_path / CONFIG).read_text()
    reference = quantize(model, tmp_path, [(x,)])
    assert (tmp_path / CONFIG).read_text() == found  # the same layers under the same names
    assert torch.equal(run_fake(quantized, x), run_fake(reference, x))


class Nested(nn.Module):
    def forward(self, pair: dict[str, Tensor], flag: bool) -> dict[str, Tensor]:
        return {"sum": pair["a"] + pair["b"]} if flag else pair


def test_nested_arguments_are_taken_apart(tmp_path):
    a, b = torch.ones(2), torch.arange(2.0)
    arguments = {"pair": {"a": fx.PH, "b": fx.PH}, "flag": True}
    module = amct.graph_to_dynamic_module(fx.symbolic_trace(Nested(), arguments), tmp_path / "debug")
    assert torch.equal(module({"a": a, "b": b}, True)["sum"], a + b)


# --- what is refused ---


@dataclasses.dataclass(frozen=True)
class Mistake:
    name: str
    arguments: tuple[object, ...]
    error: type[Exception]
    message: str


MISTAKES = [
    Mistake("not traced", (nn.ReLU(), "debug"), TypeError, "'graph_module' must be a torch.fx.GraphModule, such as"),
    Mistake("no folder", (None, 3), TypeError, "'save_module_path' must be a path"),
    Mistake("no text", (None, "debug", 3), TypeError, "'module_name' must be a string"),
    Mistake("no name", (None, "debug", "My Module"), ConfigError, "a name that a Python class can have, got 'My Mod"),
    Mistake("keyword", (None, "debug", "class"), ConfigError, "a name that a Python class can have, got 'class'"),
    Mistake("used", (None, "debug", "torch"), ConfigError, "'torch' has another meaning in the file"),
    Mistake("built in", (None, "debug", "print"), ConfigError, "'print' has another meaning in the file"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_wrong_arguments_are_refused(mistake: Mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, *rest = mistake.arguments
    graph = fx.symbolic_trace(nn.Sequential(nn.ReLU())) if first is None else first
    with pytest.raises(mistake.error, match=mistake.message):
        amct.graph_to_dynamic_module(graph, *rest)
    assert not (tmp_path / "debug").exists()


def test_function_inside_a_function_is_refused(tmp_path):
    def local(x: Tensor) -> Tensor:
        return x + 1

    graph = fx.Graph()
    graph.output(graph.call_function(local, (graph.placeholder("x"),)))
    with pytest.raises(UnsupportedModelError, match=r"local.*cannot be imported.*at module level"):
        amct.graph_to_dynamic_module(fx.GraphModule(nn.Module(), graph), tmp_path / "debug")


def test_module_of_a_local_class_is_refused(tmp_path):
    class Local(nn.Identity):
        amct_leaf = True

    graph = quantize(nn.Sequential(nn.Conv2d(3, 4, 1), Local()).eval(), tmp_path, [(images(),)])
    with pytest.raises(UnsupportedModelError, match=r"cannot be saved: .*Local.* must stand at module level"):
        amct.graph_to_dynamic_module(graph, tmp_path / "debug")
